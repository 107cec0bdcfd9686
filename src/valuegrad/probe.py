"""The probe step: a short move along the method's own update, and the reward it brings.

The alignment of Eq. 24 compares costate and value gradient as if hidden states could move freely.
They move through the parameters, so the first-order gain is the same product under the network's
tangent kernel. One backward pass of the conditional update and one forward pass measure it, in the
optimiser's metric: Adam's first step is the sign of the gradient where that exceeds its ε.

N prompts · K distances
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.advantages import Method, population_advantages
from valuegrad.credit.value_gradient import FORWARD_TOKENS, probabilities
from valuegrad.errors import UserError
from valuegrad.impact import expected_rewards
from valuegrad.policy import Policy, check_full_precision, final_states
from valuegrad.tasks.one_token import OneTokenPrompts, batches, one_token_prompts
from valuegrad.tasks.task import Task

ADAM_EPSILON = 1e-8


@dataclass(frozen=True, eq=False)
class Probe:
    """What a short move along the update does to the reward.

    Attributes:
        distances: lengths of the move in Adam's metric: learning rate × updates.
        reward_before: V per held-out prompt.
        reward_after: V per distance and held-out prompt.
        gradient_norm: ‖∇_θ‖ of the conditional objective, the mean over prompts of slope · V.
    """

    distances: tuple[float, ...]
    reward_before: Float[Tensor, " N"]
    reward_after: Float[Tensor, "K N"]
    gradient_norm: float


def probe(
    policy: Policy, task: Task, *, method: Method = "grpo", distances: Sequence[float]
) -> Probe:
    """Move along the conditional update of a method and measure the reward on the same prompts.

    The update is the gradient of mean_q slope_q V_q(θ) with the slopes held fixed: the expectation
    of the method's policy gradient over all actions. Costs one forward and one backward pass with
    parameter gradients, and a forward pass a distance. The policy is as before afterwards.

    Args:
        policy: the policy.
        task: a task with one-token answers; its held-out prompts are used.
        method: the critic-free method.
        distances: how far to move, above 0: learning rate × updates.

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
    prompts = one_token_prompts(policy, task.evaluation, task.reward)
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    before, gradients = _conditional_gradient(policy, prompts, method, parameters)
    norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))
    direction = [g.div_(g.abs().add_(ADAM_EPSILON)) for g in (g.clone() for g in gradients)]
    after = []
    for distance in distances:
        with _moved(parameters, direction, distance):
            after.append(expected_rewards(policy, prompts))
    return Probe(tuple(distances), before, torch.stack(after), float(norm))


def _conditional_gradient(
    policy: Policy, prompts: OneTokenPrompts, method: Method, parameters: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """V per prompt, and the parameter gradient of mean_q slope_q V_q."""
    values = torch.empty(len(prompts), dtype=torch.float64, device=policy.device)
    variances = torch.empty_like(values)
    totals = [torch.zeros_like(p) for p in parameters]
    # ppo's slope needs the moments of all prompts, but is one number: it is put on at the end.
    local: Method = "reinforce" if method == "ppo" else method
    for rows in batches([len(t) for t in prompts.tokens], FORWARD_TOKENS):
        p = probabilities(policy, final_states(policy, [prompts.tokens[row] for row in rows]))
        rewards = prompts.reward_table(rows)
        reward = (p * rewards).sum(1)
        values[rows] = reward.detach()
        variances[rows] = (p.detach() * (rewards - values[rows][:, None]).square()).sum(1)
        slope = population_advantages(values[rows], variances[rows], local).slope
        objective = (slope * reward).sum() / len(prompts)
        gradients = torch.autograd.grad(objective, parameters, allow_unused=True)
        for total, gradient in zip(totals, gradients, strict=True):
            if gradient is not None:
                total += gradient
    if method == "ppo":
        scale = float(population_advantages(values, variances, method).slope[0])
        totals = [total.mul_(scale) for total in totals]
    return values, totals


@contextmanager
def _moved(parameters: list[Tensor], direction: list[Tensor], distance: float) -> Iterator[None]:
    saved = [p.detach().clone() for p in parameters]
    try:
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=distance)
        yield
    finally:
        with torch.no_grad():
            for p, old in zip(parameters, saved, strict=True):
                p.copy_(old)
