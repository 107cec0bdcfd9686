"""Three ways to measure a task: over the vocabulary, by teacher forcing, and from rollouts.

Each gives the same: the impact by method, and what the probe step does. The first is for one-token
answers, the second for exact rewards of answers of any length, the third for everything.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from valuegrad.budget import Budget
from valuegrad.credit.answer_gradients import answer_values
from valuegrad.errors import UserError
from valuegrad.impact.completion_probe import exact_update, reweighted_gradients, sampled_update
from valuegrad.impact.probe import Probe, conditional_update, update_examples, walk
from valuegrad.impact.sampled import measure_rollouts
from valuegrad.impact.settings import Sampling
from valuegrad.impact.signal import Impact
from valuegrad.impact.teacher_forced import measure_exact_answers
from valuegrad.impact.vocabulary import expected_rewards, measure
from valuegrad.methods import Method
from valuegrad.model.policy import Policy, Site
from valuegrad.one_token_prompts import one_token_prompts
from valuegrad.prompts import CompletionPrompts, completion_prompts, one_token
from valuegrad.rewards.exact import Exact
from valuegrad.sampler import Rollouts, rollouts
from valuegrad.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Estimate:
    """What one checkpoint's measurements are made of.

    Attributes:
        estimator: ``vocabulary``, ``teacher-forced`` or ``sampled``.
        impacts: by method.
        probe: the move at one distance, its rewards before on the same footing as those after.
        probe_prompts: training prompts that formed its update.
        drawn: the rollouts, None where nothing was sampled.
        logp_difference: of the draws, nats; None where nothing was sampled.
        one_token: whether completions are one token.
    """

    estimator: str
    impacts: Mapping[Method, Impact]
    probe: Probe
    probe_prompts: int
    drawn: Rollouts | None = None
    logp_difference: float | None = None
    one_token: bool = False

    @property
    def change(self) -> np.ndarray:
        """The reward change of each prompt."""
        return (self.probe.reward_after[0] - self.probe.reward_before).cpu().numpy()


def choose_estimator(policy: Policy, task: Task, sampling: Sampling) -> str:
    """Which of the three ways measures a task.

    Raises:
        UserError: a closed form is asked for where there is none.
    """
    if sampling.estimator == "sampled":
        return "sampled"
    if one_token(policy, task):
        return "vocabulary"
    if isinstance(task.reward, Exact):
        return "teacher-forced"
    if sampling.estimator == "closed-form":
        raise UserError(
            "estimator",
            "closed-form for answers of several tokens and a reward of its own",
            "an exact reward or one-token answers",
            "use auto or sampled",
        )
    return "sampled"


def estimate(
    policy: Policy,
    task: Task,
    budget: Budget,
    *,
    distance: float,
    site: Site,
    alpha: float,
    sampling: Sampling,
) -> Estimate:
    """Measure a task's held-out prompts for every method, and the probe step for the budget's.

    The probe's update comes from training prompts, its reward change is that of held-out ones.

    Args:
        policy: the policy, as it is again afterwards.
        task: the task.
        budget: the RL budget, its method included.
        distance: of the probe step.
        site: where the gradients live.
        alpha: tilt of the headroom.
        sampling: which way, and how many rollouts.

    Returns:
        The estimate.

    Raises:
        UserError: as the way that measures.
        RunError: draws that are not the policy's.
    """
    how = choose_estimator(policy, task, sampling)
    # A score is a prediction of RL on this task, so the prompts that RL draws from must fit too.
    if how == "vocabulary":
        one_token_prompts(policy, task.train, task.reward)
        return _over_vocabulary(policy, task, budget, distance, site, alpha, sampling)
    completion_prompts(policy, task, task.train)
    prompts = completion_prompts(policy, task, task.evaluation)
    seen = completion_prompts(policy, task, update_examples(task, sampling.probe_prompts))
    way = _by_teacher_forcing if how == "teacher-forced" else _by_rollouts
    return way(policy, prompts, seen, budget, distance, site, alpha, sampling)


def _over_vocabulary(
    policy: Policy,
    task: Task,
    budget: Budget,
    distance: float,
    site: Site,
    alpha: float,
    sampling: Sampling,
) -> Estimate:
    prompts = one_token_prompts(policy, task.evaluation, task.reward)
    seen = one_token_prompts(policy, update_examples(task, sampling.probe_prompts), task.reward)
    impacts = measure(policy, prompts, site=site, alpha=alpha, group_size=budget.group_size)
    update = conditional_update(policy, seen, budget.method)
    probed = walk(
        update,
        lambda: conditional_update(policy, seen, budget.method).gradients,
        _rewards(policy, impacts),
        lambda: expected_rewards(policy, prompts),
        distance,
        sampling.steps(one_token=True),
    )
    return Estimate("vocabulary", impacts, probed, len(seen), one_token=True)


def _by_teacher_forcing(
    policy: Policy,
    prompts: CompletionPrompts,
    seen: CompletionPrompts,
    budget: Budget,
    distance: float,
    site: Site,
    alpha: float,
    sampling: Sampling,
) -> Estimate:
    # Only Λ below "final" needs other completions than the answer.
    drawn = None
    if site != "final":
        drawn = _draw(policy, prompts, sampling, sampling.rollouts, 0)
    impacts = measure_exact_answers(
        policy, prompts, site=site, alpha=alpha, group_size=budget.group_size, drawn=drawn
    )
    update = exact_update(policy, seen, budget.method)
    probed = walk(
        update,
        lambda: exact_update(policy, seen, budget.method).gradients,
        _rewards(policy, impacts),
        lambda: answer_values(policy, prompts),
        distance,
        _steps(prompts, sampling),
    )
    return Estimate("teacher-forced", impacts, probed, len(seen), drawn)


def _by_rollouts(
    policy: Policy,
    prompts: CompletionPrompts,
    seen: CompletionPrompts,
    budget: Budget,
    distance: float,
    site: Site,
    alpha: float,
    sampling: Sampling,
) -> Estimate:
    drawn = _draw(policy, prompts, sampling, sampling.rollouts, 0)
    impacts, difference = measure_rollouts(
        policy,
        drawn,
        site=site,
        alpha=alpha,
        group_size=budget.group_size,
        deeper=_deeper(policy, prompts, sampling),
    )
    learnt = _draw(policy, seen, sampling, sampling.rollouts, 1)
    update = sampled_update(policy, learnt, budget.method)

    def rewards() -> Tensor:
        # The chance of the draws before, which takes most of the noise off the change.
        return _draw(policy, prompts, sampling, sampling.rollouts, 0).rewards.mean(1)

    probed = walk(
        update,
        lambda: reweighted_gradients(policy, learnt, budget.method, update.parameters),
        drawn.rewards.mean(1),
        rewards,
        distance,
        _steps(prompts, sampling),
    )
    single = prompts.max_tokens == 1
    return Estimate("sampled", impacts, probed, len(seen), drawn, difference, one_token=single)


def _rewards(policy: Policy, impacts: Mapping[Method, Impact]) -> Tensor:
    """The rewards that were measured on the way to the impacts, the same for every method."""
    measured = next(iter(impacts.values())).rows["reward"]
    return torch.from_numpy(measured).to(policy.device)


def _steps(prompts: CompletionPrompts, sampling: Sampling) -> int:
    return sampling.steps(one_token=prompts.max_tokens == 1)


def _draw(
    policy: Policy, prompts: CompletionPrompts, sampling: Sampling, size: int, stream: int
) -> Rollouts:
    """Rollouts with a source of chance of their own for each use."""
    seed = 4 * sampling.rollout_seed + stream
    return rollouts(policy, prompts, size, seed=seed)


def _deeper(
    policy: Policy, prompts: CompletionPrompts, sampling: Sampling
) -> tuple[list[int], Rollouts] | None:
    """Groups of rollouts from states inside other rollouts, at a depth drawn evenly."""
    if not sampling.branch:
        return None
    trunks = _draw(policy, prompts, sampling, sampling.branch, 2)
    rng = random.Random(sampling.rollout_seed)
    rows, begun = [], []
    for row, group in enumerate(trunks.completions):
        for completion in group:
            # A completion of one token has no state inside.
            if len(completion) > 1:
                rows.append(row)
                begun.append(completion[: rng.randrange(1, len(completion))])
    if not rows:
        return None
    seed = 4 * sampling.rollout_seed + 3
    deeper = rollouts(policy, prompts, sampling.rollouts, seed=seed, rows=rows, begun=begun)
    return rows, deeper
