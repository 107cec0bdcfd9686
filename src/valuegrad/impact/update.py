"""The update of a method: the gradient of its expected objective at the parameters (Eqs. 2, 24).

N prompts · B of them
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.budget import Method
from valuegrad.methods import population_advantages
from valuegrad.model.policy import Policy

# Mean and variance of the reward of some prompts, an output of theirs, and the cotangent with which
# it gives the gradient of those means.
Pass = tuple[Float[Tensor, " B"], Float[Tensor, " B"], Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Update:
    """An update of a method, from one forward and one backward pass."""

    parameters: list[Tensor]  # what it moves
    gradients: list[Tensor]  # of mean_q slope_q V_q with the slopes held fixed, one a parameter
    gradient_norm: float  # their length, without the bias of rollouts where they are drawn


def moving_parameters(policy: Policy) -> list[Tensor]:
    """The parameters that RL moves."""
    return [p for p in policy.model.parameters() if p.requires_grad]


def add_gradients(
    totals: list[Tensor], output: Tensor, parameters: list[Tensor], cotangent: Tensor
) -> None:
    """Add the gradient of an output, contracted with a cotangent, to running totals."""
    found = torch.autograd.grad(output, parameters, cotangent, allow_unused=True)
    for total, gradient in zip(totals, found, strict=True):
        if gradient is not None:
            total.add_(gradient)


def expected_update(
    parameters: list[Tensor], method: Method, count: int, passes: Iterable[Pass]
) -> Update:
    """The update of a number of prompts from passes over some of them at a time."""
    gradients = [torch.zeros_like(p) for p in parameters]
    moments = []
    # ppo's slope needs the moments of all prompts, but is one number: it is put on at the end.
    local: Method = "reinforce" if method == "ppo" else method
    for mean, variance, output, cotangent in passes:
        slope = population_advantages(mean, variance, local).slope / count
        weighted = torch.einsum("b...,b->b...", cotangent, slope).to(output.dtype)
        add_gradients(gradients, output, parameters, weighted)
        moments.append((mean, variance))
    if method == "ppo":
        mean, variance = (torch.cat(column) for column in zip(*moments, strict=True))
        scale = float(population_advantages(mean, variance, method).slope[0])
        gradients = [g.mul_(scale) for g in gradients]
    return Update(parameters, gradients, length(gradients))


def length(gradients: Sequence[Tensor]) -> float:
    """‖·‖ of all gradients together."""
    return float(torch.nn.utils.get_total_norm(gradients))
