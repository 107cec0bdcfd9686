"""What measures a task: the vocabulary, teacher forcing or rollouts, chosen here and nowhere else.

`Prompts.kind` says what a task allows, `Sampling.estimator` what is asked for. Each of the three
modules `vocabulary`, `teacher_forced` and `sampled` has the same functions: `measure`, `update` and
`rewards`.

N held-out prompts
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from valuegrad.budget import Budget, Method
from valuegrad.errors import UserError
from valuegrad.impact import sampled, teacher_forced, vocabulary
from valuegrad.impact.settings import ALPHA, Sampling
from valuegrad.impact.signal import Impact
from valuegrad.impact.update import Update, clipped
from valuegrad.model.policy import Policy, Site
from valuegrad.prompts import Kind, Prompts, TaskPrompts
from valuegrad.sampler import Rollouts, rollouts

EstimatorName = Literal["vocabulary", "teacher-forced", "sampled"]


@dataclass(frozen=True, eq=False)
class Measured:
    """The impact of held-out prompts by method, and the rollouts that it rests on, if any."""

    impacts: Mapping[Method, Impact]
    drawn: Rollouts | None = None
    logp_difference: float | None = None  # of the draws, nats


@dataclass(frozen=True, eq=False)
class Estimator:
    """One way to measure a task where the policy's parameters are when it is called."""

    name: EstimatorName
    measure: Callable[[], Measured]
    rewards: Callable[[], Float[Tensor, " N"]]  # of held-out prompts
    update: Callable[[int], Update]  # from training prompts; the argument counts the steps taken
    probe_steps: int
    probe_prompts: int


def estimator(
    policy: Policy,
    prompts: TaskPrompts,
    budget: Budget,
    sampling: Sampling,
    *,
    site: Site = "final",
    alpha: float = ALPHA,
) -> Estimator:
    """The way to measure a tokenised task for a budget's method and group size."""
    held_out, method = prompts.evaluation, budget.method
    name = _choose(prompts.kind, sampling)
    rows = update_rows(len(prompts.train), len(held_out), sampling.probe_prompts)
    train = prompts.train.some(rows)
    sizes = {
        "group_size": budget.group_size,
        "prompts_per_update": budget.prompts_per_update,
    }
    measured_at: dict[str, Any] = {"site": site, "alpha": alpha, **sizes}
    formed_for: dict[str, Any] = {"method": method, **sizes}
    settle = partial(
        Estimator,
        name=name,
        probe_steps=sampling.steps(one_token=prompts.kind == "one token"),
        probe_prompts=len(train),
    )

    def draw(some: Prompts, stream: int) -> Rollouts:
        # Every use has a stream of random numbers of its own, the same one each time.
        return rollouts(policy, some, sampling.rollouts, seed=4 * sampling.rollout_seed + stream)

    def longest(formed: Update) -> Update:
        return clipped(formed, budget.max_gradient_norm)

    if name == "vocabulary":
        return settle(
            measure=lambda: Measured(vocabulary.measure(policy, held_out, **measured_at)),
            rewards=lambda: vocabulary.rewards(policy, held_out),
            update=lambda step: longest(vocabulary.update(policy, train, **formed_for)),
        )
    if name == "teacher-forced":

        def measure() -> Measured:
            # Only Λ below "final" needs other completions than the answer.
            drawn = None if site == "final" else draw(held_out, 0)
            found = teacher_forced.measure(policy, held_out, drawn=drawn, **measured_at)
            return Measured(found, drawn)

        return settle(
            measure=measure,
            rewards=lambda: teacher_forced.rewards(policy, held_out),
            update=lambda step: longest(
                teacher_forced.update(policy, train, **formed_for, seed=sampling.rollout_seed)
            ),
        )
    sampled.check_rollouts(sampling.rollouts, budget.group_size)
    learnt = cache(partial(draw, train, 1))

    def measure_sampled() -> Measured:
        drawn, deeper = draw(held_out, 0), _forked(policy, held_out, sampling)
        found, difference = sampled.measure(
            policy, drawn, deeper=deeper, strata=held_out.strata, **measured_at
        )
        return Measured(found, drawn, difference)

    def update(step: int) -> Update:
        again = sampled.reweighted_update if step else sampled.update
        return longest(again(policy, learnt(), max_tokens=train.max_tokens, **formed_for))

    # Common random numbers before and after a move take most of the noise off the change.
    return settle(
        measure=measure_sampled, rewards=lambda: sampled.rewards(draw(held_out, 0)), update=update
    )


def update_rows(train: int, held_out: int, count: int | None = None) -> list[int]:
    """Which training prompts form a probe's update: half as many as are held out by default."""
    count = (held_out + 1) // 2 if count is None else count
    # Evenly, for a file may be sorted; the same ones every time.
    return random.Random(0).sample(range(train), min(count, train))


def _choose(kind: Kind, sampling: Sampling) -> EstimatorName:
    if sampling.estimator == "closed-form" and kind == "sampled":
        got = "closed-form for answers of several tokens and a reward of its own"
        wanted = "an exact reward or one-token answers"
        raise UserError("estimator", got, wanted, "use auto or sampled")
    if kind == "sampled" or sampling.estimator == "sampled":
        return "sampled"
    return "vocabulary" if kind == "one token" else "teacher-forced"


def _forked(
    policy: Policy, prompts: Prompts, sampling: Sampling
) -> tuple[list[int], Rollouts] | None:
    """Groups of rollouts from states inside other rollouts, at a depth drawn evenly."""
    if not sampling.branch:
        return None
    seed = 4 * sampling.rollout_seed
    trunks = rollouts(policy, prompts, sampling.branch, seed=seed + 2)
    rng = random.Random(sampling.rollout_seed)
    # A completion of one token has no state inside.
    long = [(r, c) for r, group in enumerate(trunks.completions) for c in group if len(c) > 1]
    if not long:
        return None
    rows, forks = [r for r, _ in long], [c[: rng.randrange(1, len(c))] for _, c in long]
    return rows, rollouts(policy, prompts, sampling.rollouts, seed=seed + 3, rows=rows, forks=forks)
