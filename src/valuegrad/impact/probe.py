"""The probe step: a short move along the method's own update, and the reward it brings.

The alignment of Eq. 24 compares costate and value gradient as if hidden states could move freely.
They move through the parameters, so the first-order gain is the same product under the network's
tangent kernel. One backward pass of the conditional update and one forward pass measure it, in the
optimiser's metric: Adam's first step is the sign of the gradient where that exceeds its ε. Where
the reward bends within the distance, the move is made of several steps.

As in RL, training prompts form the update and held-out ones are measured: an update raises the
reward of its own prompts by more than it teaches.

N held-out prompts · K distances
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.credit.value_gradient import FORWARD_TOKENS
from valuegrad.errors import UserError
from valuegrad.impact.vocabulary import expected_rewards
from valuegrad.methods import Method, population_advantages
from valuegrad.model.policy import Policy, check_full_precision, final_states, logits
from valuegrad.one_token_prompts import OneTokenPrompts, batches, one_token_prompts
from valuegrad.rewards.example import Example
from valuegrad.tasks.task import Task

ADAM_EPSILON = 1e-8


@dataclass(frozen=True, eq=False)
class Probe:
    """What a short move along the update does to the reward.

    Attributes:
        distances: lengths of the move in Adam's metric: learning rate × updates.
        reward_before: V per held-out prompt.
        reward_after: V per distance and held-out prompt.
        gradient_norm: ‖∇_θ‖ of the conditional objective, the mean over training prompts of
            slope · V; their scatter makes it longer than that over all prompts.
    """

    distances: tuple[float, ...]
    reward_before: Float[Tensor, " N"]
    reward_after: Float[Tensor, "K N"]
    gradient_norm: float


def probe(
    policy: Policy,
    task: Task,
    *,
    method: Method = "grpo",
    distances: Sequence[float],
    prompts: int | None = None,
) -> Probe:
    """Move along the conditional update of a method and measure the reward on held-out prompts.

    The update is the gradient of mean_q slope_q V_q(θ) over training prompts with the slopes held
    fixed: the expectation of the method's policy gradient over all actions. Costs one forward and
    one backward pass with parameter gradients over these prompts, and of the held-out ones a
    forward pass and one more a distance. The policy is as before afterwards.

    Args:
        policy: the policy.
        task: a task with one-token answers.
        method: the critic-free method.
        distances: how far to move, above 0: learning rate × updates.
        prompts: training prompts that form the update; None takes half as many as are held out.

    Returns:
        Rewards before and after each move, and the length of the gradient.

    Raises:
        UserError: distances out of range, a half-precision policy, answers that are not one
            token, an unusable reward.

    Example:
        ``probe(load_policy("runs/step100"), label_copy(), distances=[1e-3])``
    """
    if not distances or not all(0 < distance < float("inf") for distance in distances):
        raise UserError("distances", str(list(distances)), "numbers above 0", "use lr × updates")
    check_full_precision(policy)
    held_out = one_token_prompts(policy, task.evaluation, task.reward)
    training = one_token_prompts(policy, update_examples(task, prompts), task.reward)
    update = conditional_update(policy, training, method)
    return move(update, lambda: expected_rewards(policy, held_out), distances)


def update_examples(task: Task, count: int | None = None) -> list[Example]:
    """Draw the training prompts that form a probe's update, the same ones every time.

    Args:
        task: the task.
        count: how many, at most all of them; None takes half as many as are held out.

    Returns:
        The examples.

    Raises:
        UserError: a count below 1.

    Example:
        >>> from valuegrad import arithmetic
        >>> len(update_examples(arithmetic(prompts=10)))
        5
    """
    count = (len(task.evaluation) + 1) // 2 if count is None else count
    if count < 1:
        raise UserError("prompts", str(count), "1 or more", "leave it out for the default")
    # Evenly, for a file may be sorted.
    return random.Random(0).sample(task.train, min(count, len(task.train)))


@dataclass(frozen=True, eq=False)
class Update:
    """An update of a method, from one forward and one backward pass.

    Attributes:
        parameters: what the update moves.
        gradients: of mean_q slope_q V_q with the slopes held fixed, one a parameter.
        gradient_norm: their length, without the bias of rollouts where they are drawn.
    """

    parameters: list[Tensor]
    gradients: list[Tensor]
    gradient_norm: float


def conditional_update(policy: Policy, prompts: OneTokenPrompts, method: Method) -> Update:
    """The gradient of mean_q slope_q V_q(θ), slopes held fixed: all actions at once.

    Args:
        policy: the policy, in float32 or float64.
        prompts: with one-token answers.
        method: the critic-free method.

    Returns:
        The update.
    """
    parameters = moving_parameters(policy)
    values = torch.empty(len(prompts), dtype=torch.float64, device=policy.device)
    variances = torch.empty_like(values)
    gradients = [torch.zeros_like(p) for p in parameters]
    for rows in batches([len(t) for t in prompts.tokens], FORWARD_TOKENS):
        final = final_states(policy, [prompts.tokens[row] for row in rows])
        z = logits(policy, final)
        p, rewards = z.detach().double().softmax(1), prompts.reward_table(rows)
        values[rows] = (p * rewards).sum(1)
        centred = rewards - values[rows][:, None]
        variances[rows] = (p * centred.square()).sum(1)
        slope = own_slopes(values[rows], variances[rows], method)
        # ∂(slope V)/∂z = slope p ⊙ (r − V), so no graph over prompts × vocabulary in float64.
        cotangent = (p * centred).mul_(slope[:, None] / len(prompts)).to(z.dtype)
        add_gradients(gradients, z, parameters, cotangent)
    return whole_update(parameters, gradients, values, variances, method)


def own_slopes(
    values: Float[Tensor, " B"], variances: Float[Tensor, " B"], method: Method
) -> Float[Tensor, " B"]:
    """What of the slopes a prompt's own moments decide; `whole_update` puts on the rest."""
    local: Method = "reinforce" if method == "ppo" else method
    return population_advantages(values, variances, local).slope


def whole_update(
    parameters: list[Tensor],
    gradients: list[Tensor],
    values: Float[Tensor, " N"],
    variances: Float[Tensor, " N"],
    method: Method,
) -> Update:
    """The update of gradients that were formed with `own_slopes`, batch by batch.

    ppo's slope needs the moments of all prompts, but is one number: it is put on here.
    """
    if method == "ppo":
        scale = float(population_advantages(values, variances, method).slope[0])
        gradients = [g.mul_(scale) for g in gradients]
    return Update(parameters, gradients, length(gradients))


def moving_parameters(policy: Policy) -> list[Tensor]:
    """The parameters that RL moves."""
    return [p for p in policy.model.parameters() if p.requires_grad]


def add_gradients(
    totals: list[Tensor], output: Tensor, parameters: list[Tensor], cotangent: Tensor | None = None
) -> None:
    """Add the gradient of an output, contracted with a cotangent, to running totals."""
    found = torch.autograd.grad(output, parameters, cotangent, allow_unused=True)
    for total, gradient in zip(totals, found, strict=True):
        if gradient is not None:
            total.add_(gradient)


def length(gradients: Sequence[Tensor]) -> float:
    """‖·‖ of all gradients together."""
    return float(
        torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
    )


def move(
    update: Update, rewards: Callable[[], Float[Tensor, " N"]], distances: Sequence[float]
) -> Probe:
    """Take an update's step in Adam's metric at each distance and measure the reward there.

    Args:
        update: its gradients are used up; the parameters are as they were afterwards.
        rewards: measures the reward per prompt where the parameters are.
        distances: how far to move, above 0: learning rate × updates.

    Returns:
        Rewards before and after each move, and the length of the gradient.
    """
    direction = _direction(update.gradients)
    update.gradients.clear()
    before, after = rewards(), []
    for distance in distances:
        with _moved(update.parameters, direction, distance):
            after.append(rewards())
    return Probe(tuple(distances), before, torch.stack(after), update.gradient_norm)


def walk(
    update: Update,
    again: Callable[[], list[Tensor]],
    before: Float[Tensor, " N"],
    rewards: Callable[[], Float[Tensor, " N"]],
    distance: float,
    steps: int,
) -> Probe:
    """Go a distance in equal steps, the update formed anew after each but the last.

    One straight step overshoots where the reward bends within the distance; RL does not, for it
    looks again after every update.

    Args:
        update: the first; its gradients are used up, the parameters are as they were afterwards.
        again: forms the gradients where the parameters are.
        before: the reward per prompt before the move.
        rewards: measures the reward per prompt where the parameters are.
        distance: how far to go in all, above 0: learning rate × updates.
        steps: how many steps to make of it, 1 or more.

    Returns:
        Rewards before and after, and the length of the first gradient.
    """
    saved = [p.data for p in update.parameters]
    try:
        for step in range(steps):
            gradients = again() if step else update.gradients
            for p, d in zip(update.parameters, _direction(gradients), strict=True):
                p.data = torch.add(p.data, d, alpha=distance / steps)
        after = rewards()
    finally:
        for p, old in zip(update.parameters, saved, strict=True):
            p.data = old
    update.gradients.clear()
    return Probe((distance,), before, after[None], update.gradient_norm)


def _direction(gradients: list[Tensor]) -> list[Tensor]:
    """Adam's first step: the sign of a gradient where that exceeds ε; in the gradients' place."""
    return [g.div_(g.abs().add_(ADAM_EPSILON)) for g in gradients]


@contextmanager
def _moved(parameters: list[Tensor], direction: list[Tensor], distance: float) -> Iterator[None]:
    # The parameters point to moved copies for a while, so that going back is exact and free.
    saved = [p.data for p in parameters]
    try:
        for p, d in zip(parameters, direction, strict=True):
            p.data = torch.add(p.data, d, alpha=distance)
        yield
    finally:
        for p, old in zip(parameters, saved, strict=True):
            p.data = old
