"""One checkpoint's score: every measurement of theory §6 (Eqs. 24 to 31) in one record."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from valuegrad.budget import Budget
from valuegrad.checkpoints.files import weights_sha256
from valuegrad.impact.estimator import Measured, estimator
from valuegrad.impact.probe import move
from valuegrad.impact.readiness import readiness
from valuegrad.impact.settings import ALPHA, Sampling
from valuegrad.impact.signal import Measurements, check_settings
from valuegrad.model.policy import Policy, Site, check_full_precision
from valuegrad.model.sites import check_site
from valuegrad.prompts import tokenise
from valuegrad.tasks.strata import mean_covariance, strata_codes
from valuegrad.tasks.task import Task, check_task

FORMULAS = 2
"""Counts up when what a measurement means changes, so that no older record is taken for it."""


@dataclass(frozen=True, eq=False)
class Score(Measurements):
    """How much RL is expected to help one checkpoint, and what that rests on.

    The fields are the keys of ``valuegrad score --json``; theory §6 defines the measurements.
    `n_prompts` of `n_prompts_available` held-out prompts were measured. Rewards are in reward
    units, the entropy in nats, `seconds` is wall-clock time. `estimator` is
    ``vocabulary``, ``teacher-forced`` or ``sampled``. Where something was sampled, `rollouts` is
    how many completions of each prompt, `truncated` and `empty` are the shares of those cut off at
    the most tokens and stopped at once, and `logp_difference` is how far the draws'
    log-probabilities are from those of one forward pass, in nats.
    """

    checkpoint: str
    revision: str | None
    step: int | None
    tokens: int | None
    weights_sha256: str
    task: str
    task_sha256: str
    method: str
    site: Site
    alpha: float
    n_prompts: int
    n_prompts_available: int
    group_size: int
    closed_form: bool
    learning_rate: float
    updates: tuple[int, ...]
    probe_step: float
    gradient_norm: float
    standard_errors: dict[str, float]
    estimator: str
    probe_prompts: int
    rollouts: int | None
    truncated: float | None
    empty: float | None
    logp_difference: float | None
    seconds: float
    rows: dict[str, np.ndarray] = field(repr=False)
    """Per-prompt values, not part of the JSON; ``:method`` ends the name of what depends on it."""


def score(
    policy: Policy,
    task: Task,
    *,
    budget: Budget | None = None,
    site: Site = "final",
    alpha: float = ALPHA,
    sampling: Sampling | None = None,
) -> Score:
    """Measure everything that predicts the gain of an RL budget from this checkpoint.

    Args:
        policy: the policy.
        task: the task; its held-out prompts are measured, in closed form where the answers are one
            token or the reward is exact, from rollouts otherwise. Training prompts form the
            update of the probe step.
        budget: the RL budget that the score is a prediction for, its method included.
        site: where the gradients live; the probe step and the rewards do not depend on it.
        alpha: tilt of the headroom (Eq. 28), in inverse reward units.
        sampling: of the probe step, and how many rollouts where any are needed.

    Returns:
        The score. Its rows hold every method's measurements, its fields those of the budget's.

    Raises:
        UserError: settings out of range, a half-precision policy, prompts, answers or a reward that
            cannot be used.
        RunError: draws that are not the policy's; numbers that are not finite.

    Example:
        ``score(load_policy("runs/step100"), label_copy()).probe_step``
    """
    start = time.perf_counter()
    budget, sampling = budget or Budget(), sampling or Sampling()
    site = check_site(policy, site)
    check_task(task)
    check_full_precision(policy)
    check_settings(alpha, budget.group_size)
    prompts = tokenise(policy, task)
    way = estimator(policy, prompts, budget, sampling, site=site, alpha=alpha)
    found = way.measure()
    impact, drawn = found.impacts[budget.method], found.drawn
    for what, values in (
        ("an expected reward", impact.rows.reward),
        ("an entropy", impact.rows.entropy),
        ("a squared value gradient", impact.rows.sigma),
    ):
        prompts.evaluation.check_finite(policy, what, values)
    distance = budget.learning_rate * probe_updates(budget)
    # The rewards were measured on the way to the impact.
    probed = move(way, impact.rows.reward.to(policy.device), [distance])
    prompts.evaluation.check_finite(policy, "a probe step", probed.change[0])
    change = probed.change[0].cpu().numpy()
    checkpoint = policy.checkpoint
    return Score(
        **vars(impact.means),
        checkpoint=checkpoint.name,
        revision=checkpoint.revision,
        step=checkpoint.step,
        tokens=checkpoint.tokens,
        weights_sha256=weights_sha256(checkpoint),
        task=task.name,
        task_sha256=task.sha256,
        method=budget.method,
        site=impact.site,
        alpha=alpha,
        n_prompts=len(task.evaluation),
        n_prompts_available=task.n_available,
        group_size=budget.group_size,
        closed_form=way.name != "sampled",
        learning_rate=budget.learning_rate,
        updates=budget.updates,
        probe_step=float(change.mean()),
        gradient_norm=probed.gradient_norm,
        standard_errors={
            **vars(impact.standard_errors),
            "probe_step": _standard_error(change, prompts.evaluation.strata),
        },
        estimator=way.name,
        probe_prompts=way.probe_prompts,
        rollouts=None if drawn is None else drawn.rewards.shape[1],
        truncated=None if drawn is None else float(drawn.truncated.double().mean()),
        empty=None if drawn is None else float(drawn.empty.double().mean()),
        logp_difference=found.logp_difference,
        seconds=time.perf_counter() - start,
        rows=_rows(found, task, budget, change, prompts.kind == "one token"),
    )


def _rows(
    found: Measured, task: Task, budget: Budget, change: np.ndarray, one_token: bool
) -> dict[str, np.ndarray]:
    """The per-prompt values as columns of a table."""
    impact = found.impacts[budget.method]
    shared = ("reward", "reward_variance", "entropy", "headroom", "pass_at_k", "zero_spread")
    columns = {name: getattr(impact.rows, name) for name in (*shared, "sigma")}
    for m, other in found.impacts.items():
        for name in ("alignment", "lambda_conditional", "lambda_sample", "slope"):
            columns[f"{name}:{m}"] = getattr(other.rows, name)
    columns |= vars(readiness(impact, one_token=one_token))
    columns |= {"probe_step": change, "prompt": [e.prompt for e in task.evaluation]}
    columns |= {"stratum": [e.stratum for e in task.evaluation]}
    return {name: np.asarray(values) for name, values in columns.items()}


def probe_updates(budget: Budget) -> float:
    """How many updates' worth of learning rate the probe moves for a budget."""
    return budget.mean_updates / 2


def _standard_error(values: np.ndarray, strata: Sequence[str] | None = None) -> float:
    # Over the prompts that are measured, by stratum, given the update.
    # Prompts that all say the same, as without any success, do not say how sure that is.
    if np.ptp(values) == 0:
        return math.nan
    return math.sqrt(mean_covariance(values[None], strata_codes(strata, len(values))).item())
