"""The forecast: RL's optimiser replayed in a few large steps, fitted to no gain (theory §6).

Between two places where the policy has not changed much, RL's updates have one mean ḡ, the expected
gradient of groups of the budget's size, and one second moment s² = E[g²] of the gradients of single
batches. Adam's own recursion takes them on: m ← β₁ m + (1 − β₁) ḡ, v ← β₂ v + (1 − β₂) s². Noise in
s² shortens the steps of coordinates whose signal is below it.

A batch without any spread of rewards moves nothing, and where success is rare nearly all are such.
So batches are drawn given that one of their groups has a spread, and weigh by its chance f.

N held-out prompts · K numbers of updates · Q prompts in a batch · G actions in a group
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.budget import Budget
from valuegrad.errors import UserError
from valuegrad.impact import vocabulary
from valuegrad.impact.estimator import update_rows
from valuegrad.impact.update import add_gradients, clipped, length, moving_parameters, restored
from valuegrad.methods import advantages
from valuegrad.model.batches import final_states
from valuegrad.model.policy import Policy, check_full_precision, logits
from valuegrad.prompts import Prompts, tokenise
from valuegrad.tasks.task import Task

BETAS, EPSILON = (0.9, 0.999), 1e-8
MOVE = 0.3  # of the prompts' log-odds after which the gradient is formed anew
MARGIN = 1e-9  # how far a reward is kept from 0 and 1, where the log-odds are infinite
GROUP_METHODS = ("grpo", "dr_grpo", "rloo")  # those to which a group without spread says nothing
TRIES = 10_000


@dataclass(frozen=True, eq=False)
class Forecast:
    """What RL is expected to do to the reward of held-out prompts; made by `forecast`.

    Attributes:
        updates: numbers of updates, increasing, those of the budget among them.
        rows: the expected reward of each held-out prompt after each of them.
        reward_before: that before the first.
        gradients: how often the gradient was formed.
    """

    updates: tuple[int, ...]
    rows: Float[Tensor, "K N"]
    reward_before: Float[Tensor, " N"]
    gradients: int

    @property
    def reward(self) -> Float[Tensor, " K"]:
        """The mean reward after each number of updates."""
        return self.rows.mean(1)

    @property
    def gain(self) -> Float[Tensor, " K"]:
        """The mean reward after each number of updates, less that before."""
        return self.reward - self.reward_before.mean()


def forecast(
    policy: Policy,
    task: Task,
    *,
    budget: Budget | None = None,
    batches: int = 2,
    prompts: int | None = None,
    seed: int = 0,
) -> Forecast:
    """The reward that RL with a budget reaches from a checkpoint, before any RL runs.

    Of answers of one token, with Adam at a constant learning rate: what `train` does in its own
    loop. It cannot see what no action of the policy shows, and what RL's own seeds differ by.

    Args:
        policy: the policy; it is as before afterwards.
        task: a task with one-token answers.
        budget: of the runs.
        batches: real batches that the second moment is measured from at each place; 0 takes ḡ²,
            as if batches were infinitely large.
        prompts: training prompts that ḡ is formed of; by default half as many as are held out.
        seed: of the batches.

    Returns:
        The forecast.

    Raises:
        UserError: answers of several tokens, a budget with several inner epochs or a KL penalty,
            batches below 0, a half-precision policy, an unusable task or reward.

    Example:
        ``forecast(load_policy("runs/step100"), label_copy()).gain[-1]``
    """
    budget = budget or Budget()
    check_full_precision(policy)
    _check(budget, batches)
    both = tokenise(policy, task)
    if both.kind != "one token":
        got = "answers of several tokens" if both.evaluation.exact else "completions of any length"
        raise UserError("task", got, "answers of one token", "take `score`'s probe step for others")
    chosen = both.train.some(update_rows(len(both.train), len(both.evaluation), prompts))
    formed = (chosen, budget.method, budget.group_size, budget.prompts_per_update)
    generator = torch.Generator().manual_seed(seed)
    before = vocabulary.rewards(policy, both.evaluation)
    known: dict[int, Tensor] = {}
    parameters = moving_parameters(policy)
    with restored(parameters):
        for p in parameters:
            p.data = p.data.clone()
        adam = _Adam(parameters, budget.learning_rate)
        size, gradients, level = 1, 0, before
        while adam.done < budget.updates[-1]:
            expected = vocabulary.update(policy, *formed)
            gradients += 1
            squared = None
            if batches:
                squared, share = _second_moment(policy, both.train, budget, batches, generator)
                mean = [g.mul_(share) for g in expected.gradients]
            else:
                mean = clipped(expected, budget.max_gradient_norm).gradients
            size = min(size, budget.updates[-1] - adam.done)
            place = adam.place()
            while True:
                found = _advance(
                    adam,
                    mean,
                    squared,
                    size,
                    budget,
                    lambda: vocabulary.rewards(policy, both.evaluation),
                )
                moved = _distance(found[adam.done], level)
                if moved <= 1.5 * MOVE or size == 1:
                    break
                # Too far for one gradient: half of the way, and look again.
                adam.back(place)
                size //= 2
            known |= found
            level = found[adam.done]
            size = max(1, min(2 * size, int(size * MOVE / max(moved, 1e-3))))
    updates = tuple(sorted(known))
    return Forecast(updates, torch.stack([known[k] for k in updates]), before, gradients)


def _check(budget: Budget, batches: int) -> None:
    if batches < 0:
        raise UserError("batches", str(batches), "0 or more", "use 2")
    for name, value, plain in (
        ("inner_epochs", budget.inner_epochs, 1),
        ("beta", budget.beta, 0),
    ):
        if value != plain:
            fix = "leave it out of the budget that is forecast"
            raise UserError(name, str(value), f"{plain}, which the replay knows", fix)


class _Adam:
    """Adam's recursion with a mean gradient and a second moment in the place of one gradient."""

    def __init__(self, parameters: list[Tensor], learning_rate: float) -> None:
        self.parameters, self.learning_rate, self.done = parameters, learning_rate, 0
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]

    def step(self, mean: list[Tensor], squared: list[Tensor] | None) -> None:
        """One update along the gradient of an objective that is maximised."""
        self.done += 1
        one, two = (1 - beta**self.done for beta in BETAS)
        squares = [g.square() for g in mean] if squared is None else squared
        for p, m, v, g, s in zip(
            self.parameters, self.first, self.second, mean, squares, strict=True
        ):
            m.lerp_(g, 1 - BETAS[0])
            v.lerp_(torch.maximum(s, g.square()), 1 - BETAS[1])
            change = (m / one).div_((v / two).sqrt_().add_(EPSILON))
            p.data.add_(change, alpha=self.learning_rate)

    def place(self) -> tuple[int, list[Tensor], list[Tensor], list[Tensor]]:
        """What `back` needs to go back here."""

        def copies(of: list[Tensor]) -> list[Tensor]:
            return [x.detach().clone() for x in of]

        return self.done, copies(self.parameters), copies(self.first), copies(self.second)

    def back(self, place: tuple[int, list[Tensor], list[Tensor], list[Tensor]]) -> None:
        """Return to a place."""
        self.done, parameters, first, second = place
        for p, old in zip(self.parameters, parameters, strict=True):
            p.data.copy_(old)
        self.first, self.second = ([x.clone() for x in xs] for xs in (first, second))


def _advance(
    adam: _Adam,
    mean: list[Tensor],
    squared: list[Tensor] | None,
    size: int,
    budget: Budget,
    rewards: Callable[[], Tensor],
) -> dict[int, Tensor]:
    """So many updates with one gradient; rewards where the budget asks for them, and at the end."""
    found = {}
    for step in range(size):
        adam.step(mean, squared)
        if adam.done in budget.updates or step + 1 == size:
            found[adam.done] = rewards()
    return found


def _distance(one: Tensor, other: Tensor) -> float:
    """How far prompts' log-odds have moved, the mean over prompts."""
    return float(
        (one.clamp(MARGIN, 1 - MARGIN).logit() - other.clamp(MARGIN, 1 - MARGIN).logit())
        .abs()
        .mean()
    )


def _second_moment(
    policy: Policy, prompts: Prompts, budget: Budget, count: int, generator: torch.Generator
) -> tuple[list[Tensor], float]:
    """E[g²] of clipped gradients of real batches, and what clipping leaves of their length."""
    parameters = moving_parameters(policy)
    squared = [torch.zeros_like(p) for p in parameters]
    kept = 0.0
    equal = _equal_chance(policy, prompts, budget)
    for _ in range(count):
        gradients, chance = _batch_gradient(policy, prompts, budget, parameters, equal, generator)
        share = min(1.0, budget.max_gradient_norm / (length(gradients) + 1e-6))
        kept += share / count
        for total, g in zip(squared, gradients, strict=True):
            total.addcmul_(g, g, value=chance * share**2 / count)
    return squared, kept


def _batch_gradient(
    policy: Policy,
    prompts: Prompts,
    budget: Budget,
    parameters: list[Tensor],
    equal: Float[Tensor, " N"] | None,
    generator: torch.Generator,
) -> tuple[list[Tensor], float]:
    """The gradient of one batch, drawn given that a group has a spread, and the chance of that."""
    size, group = budget.prompts_per_update, budget.group_size
    order = torch.randint(len(prompts), (size,), generator=generator)
    chance = 1.0
    if equal is not None:
        chance = float(-torch.expm1(size * equal.mean().log()))
        if not chance > 0:
            return [torch.zeros_like(p) for p in parameters], 0.0
        # The first prompt whose group has a spread, and those before it without: they move nothing.
        places = equal.mean() ** torch.arange(size, dtype=equal.dtype)
        first = int(torch.multinomial(places, 1, generator=generator))
        order[first] = int(torch.multinomial(1 - equal, 1, generator=generator))
        order = order[first:]
    rows = order.tolist()
    z = logits(policy, final_states(policy, [prompts.tokens[row] for row in rows]))
    p = z.detach().double().softmax(1).cpu()
    table = prompts.reward_table(policy, rows).cpu()
    actions = torch.multinomial(p, group, replacement=True, generator=generator)
    if equal is not None:
        actions[0] = _with_spread(p[0], table[0], group, generator)
    signal = advantages(table.gather(1, actions), budget.method) / (size * group)
    cotangent = torch.zeros_like(p).scatter_add_(1, actions, signal)
    cotangent -= p * signal.sum(1, keepdim=True)
    gradients = [torch.zeros_like(x) for x in parameters]
    add_gradients(gradients, z, parameters, cotangent.to(z))
    return gradients, chance


def _equal_chance(policy: Policy, prompts: Prompts, budget: Budget) -> Float[Tensor, " N"] | None:
    """The chance of each prompt that its whole group earns the same; None where that may move."""
    if budget.method not in GROUP_METHODS:
        return None
    outcomes = vocabulary.outcomes(policy, prompts)
    return outcomes.probabilities.pow(budget.group_size).sum(1).clamp(max=1).cpu()


def _with_spread(p: Tensor, table: Tensor, group: int, generator: torch.Generator) -> Tensor:
    """A group of actions of one prompt that do not all earn the same."""
    values, kinds = torch.unique(table, return_inverse=True)
    mass = torch.zeros(len(values), dtype=p.dtype).scatter_add_(0, kinds, p)
    if len(values) == 2:
        # How many earn the higher reward, neither none nor all; rejection would take for ever.
        k = torch.arange(1, group, dtype=p.dtype)
        ways = -torch.lgamma(k + 1) - torch.lgamma(group - k + 1)
        weight = ways + torch.xlogy(k, mass[1]) + torch.xlogy(group - k, mass[0])
        high = 1 + int(torch.multinomial((weight - weight.max()).exp(), 1, generator=generator))
        parts = [
            torch.multinomial(p * (kinds == kind), count, replacement=True, generator=generator)
            for kind, count in ((1, high), (0, group - high))
        ]
        return torch.cat(parts)
    for _ in range(TRIES):
        drawn = torch.multinomial(p, group, replacement=True, generator=generator)
        if len(torch.unique(table[drawn])) > 1:
            return drawn
    return drawn
