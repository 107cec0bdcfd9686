"""One checkpoint's score: every measurement of theory §6 in one record."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np

from valuegrad.advantages import METHODS
from valuegrad.checkpoints import weights_sha256
from valuegrad.impact import Columns, check_settings, measure
from valuegrad.policy import Policy, Site, check_full_precision
from valuegrad.probe import conditional_update, move
from valuegrad.sites import check_site
from valuegrad.tasks.one_token import one_token_prompts
from valuegrad.tasks.task import Task
from valuegrad.training.settings import Budget


@dataclass(frozen=True, eq=False)
class Score:
    """How much RL is expected to help one checkpoint, and what that rests on.

    The fields are the keys of ``valuegrad score --json``; theory §6 defines the measurements.
    Rewards are in reward units, the entropy in nats, `seconds` is wall-clock time.
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
    group_size: int
    closed_form: bool
    learning_rate: float
    updates: tuple[int, ...]
    reward_before: float
    sigma: float
    lambda_conditional: float
    lambda_sample: float
    alignment: float
    headroom: float
    headroom_pooled: float
    p_gap: float
    p_gap_conditional: float
    p_alignment: float
    probe_step: float
    entropy: float
    reward_variance: float
    pass_at_k: float
    gradient_norm: float
    zero_spread_groups: float
    standard_errors: dict[str, float]
    seconds: float
    rows: Columns = field(repr=False)
    """Per-prompt values, not part of the JSON; ``:method`` ends the name of what depends on it."""


def score(
    policy: Policy,
    task: Task,
    *,
    budget: Budget | None = None,
    site: Site = "final",
    alpha: float = 5.0,
) -> Score:
    """Measure everything that predicts the gain of an RL budget from this checkpoint.

    Args:
        policy: the policy.
        task: a task with one-token answers; its held-out prompts are measured.
        budget: the RL budget that the score is a prediction for, its method included.
        site: where the gradients live; the probe step and the rewards do not depend on it.
        alpha: tilt of the headroom (Eq. 28), in inverse reward units.

    Returns:
        The score. Its rows hold every method's measurements, its fields those of the budget's.

    Raises:
        UserError: as `measure` and `probe`.

    Example:
        ``score(load_policy("runs/step100"), label_copy()).probe_step``
    """
    start = time.perf_counter()
    budget = budget or Budget()
    site = check_site(policy, site)
    # The score is a prediction of RL on this task, so the prompts that RL draws from must fit too.
    one_token_prompts(policy, task.train, task.reward)
    check_full_precision(policy)
    check_settings(alpha, budget.group_size)
    prompts = one_token_prompts(policy, task.evaluation, task.reward)
    update = conditional_update(policy, prompts, budget.method)
    impacts = measure(
        policy, prompts, states=update.states, site=site, alpha=alpha,
        group_size=budget.group_size,
    )  # fmt: skip
    impact = impacts[budget.method]
    distance = budget.learning_rate * probe_updates(budget)
    probed = move(policy, prompts, update, [distance])
    change = (probed.reward_after[0] - probed.reward_before).cpu().numpy()
    errors = {**impact.standard_errors, "probe_step": _standard_error(change)}
    per_method = {"slope", "alignment", "lambda_conditional", "lambda_sample"}
    rows = {k: v for k, v in impact.rows.items() if k not in per_method}
    rows |= {f"{k}:{m}": impacts[m].rows[k] for m in METHODS for k in sorted(per_method)}
    rows |= {"probe_step": change, "prompt": np.array([e.prompt for e in task.evaluation])}
    checkpoint = policy.checkpoint
    return Score(
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
        group_size=budget.group_size,
        closed_form=True,
        learning_rate=budget.learning_rate,
        updates=budget.updates,
        probe_step=float(change.mean()),
        gradient_norm=probed.gradient_norm,
        standard_errors=errors,
        seconds=time.perf_counter() - start,
        rows=rows,
        **impact.means,
    )


def probe_updates(budget: Budget) -> float:
    """How many updates' worth of learning rate the probe moves for a budget."""
    return budget.mean_updates / 2


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
