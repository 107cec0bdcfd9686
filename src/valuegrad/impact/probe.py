"""The probe step: a short move along the method's update, and its reward (Eq. 24, correction G).

The alignment of Eq. 24 compares costate and value gradient as if hidden states could move freely.
They move through the parameters, so the first-order gain is the same product under the network's
tangent kernel. A backward pass of the expected update and a forward pass measure it, in the
optimiser's metric: Adam's first step is the sign of the gradient where that exceeds its ε.

As in RL, training prompts form the update and held-out ones are measured: an update raises the
reward of its own prompts by more than it teaches (correction G).

N held-out prompts · K distances
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.budget import Budget, Method
from valuegrad.errors import UserError
from valuegrad.impact.estimator import Estimator, estimator
from valuegrad.impact.settings import Sampling
from valuegrad.impact.update import restored
from valuegrad.model.policy import Policy, check_full_precision
from valuegrad.prompts import tokenise
from valuegrad.tasks.task import Task

ADAM_EPSILON = 1e-8


@dataclass(frozen=True, eq=False)
class Probe:
    """What a short move along the update does to the reward.

    Attributes:
        distances: lengths of the move in Adam's metric: learning rate × updates.
        reward_before: V per held-out prompt.
        reward_after: V per distance and held-out prompt.
        gradient_norm: the length of the expected update of the training prompts, before it is
            clipped; their scatter makes it longer than that of all prompts.
    """

    distances: tuple[float, ...]
    reward_before: Float[Tensor, " N"]
    reward_after: Float[Tensor, "K N"]
    gradient_norm: float

    @property
    def change(self) -> Float[Tensor, "K N"]:
        """The reward change of each held-out prompt, by distance."""
        return self.reward_after - self.reward_before


def probe(
    policy: Policy,
    task: Task,
    *,
    method: Method = "grpo",
    distances: Sequence[float],
    sampling: Sampling | None = None,
    budget: Budget | None = None,
) -> Probe:
    """Move along the expected update of a method and measure the reward on held-out prompts.

    The update is the expectation of the gradient that RL forms from training prompts, over groups
    of the budget's size and over all completions. What `score` reports as `probe_step` is the
    change at one distance. The policy is as before afterwards.

    Args:
        policy: the policy.
        task: any task.
        method: the critic-free method.
        distances: how far to move, above 0: learning rate × updates.
        sampling: how many training prompts form the update, the steps of a move, and the rollouts
            where any are needed.
        budget: what else forms an update, such as the group size; its own method goes before
            ``method``.

    Returns:
        Rewards before and after each move, and the length of the gradient.

    Raises:
        UserError: distances out of range, a half-precision policy, an unusable task or reward.

    Example:
        ``probe(load_policy("runs/step100"), label_copy(), distances=[1e-3]).change.mean(1)``
    """
    if not distances or not all(0 < distance < float("inf") for distance in distances):
        raise UserError("distances", str(list(distances)), "numbers above 0", "use lr × updates")
    check_full_precision(policy)
    budget, sampling = budget or Budget(method=method), sampling or Sampling()
    way = estimator(policy, tokenise(policy, task), budget, sampling)
    return move(way, way.rewards(), distances)


def move(way: Estimator, before: Float[Tensor, " N"], distances: Sequence[float]) -> Probe:
    """Go each distance in equal steps, the update formed anew after each but the last.

    One straight step overshoots where the reward bends within the distance; RL does not, for it
    forms a new gradient after every update. The parameters are as they were afterwards, bit for
    bit.
    """
    first = way.update(0)
    parameters, direction, steps = first.parameters, _direction(first.gradients), way.probe_steps
    after = []
    for distance in distances:
        with restored(parameters):
            for step in range(steps):
                along = _direction(way.update(step).gradients) if step else direction
                for p, d in zip(parameters, along, strict=True):
                    p.data = torch.add(p.data, d, alpha=distance / steps)
            after.append(way.rewards())
    return Probe(tuple(distances), before, torch.stack(after), first.gradient_norm)


def _direction(gradients: list[Tensor]) -> list[Tensor]:
    """Adam's first step: the sign of a gradient where that exceeds ε; in the gradients' place."""
    return [g.div_(g.abs().add_(ADAM_EPSILON)) for g in gradients]
