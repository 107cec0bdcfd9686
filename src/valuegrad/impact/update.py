"""The update of a method: the gradient of its expected objective at the parameters (Eqs. 2, 24).

N prompts · B of them
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.budget import Method
from valuegrad.methods import population_advantages
from valuegrad.model.policy import Policy


@dataclass(frozen=True, eq=False)
class Update:
    """An update of a method, from one forward and one backward pass."""

    parameters: list[Tensor]  # what it moves
    gradients: list[Tensor]  # of mean_q slope_q V_q with the slopes held fixed, one a parameter
    gradient_norm: float  # their length, without the bias of rollouts where they are drawn


def moving_parameters(policy: Policy) -> list[Tensor]:
    """The parameters that RL moves."""
    return [p for p in policy.model.parameters() if p.requires_grad]


def per_prompt_slopes(
    values: Float[Tensor, " B"], variances: Float[Tensor, " B"], method: Method
) -> Float[Tensor, " B"]:
    """What of the slopes a prompt's own moments decide; `summed` puts on the rest."""
    local: Method = "reinforce" if method == "ppo" else method
    return population_advantages(values, variances, local).slope


def add_gradients(
    totals: list[Tensor], output: Tensor, parameters: list[Tensor], cotangent: Tensor | None = None
) -> None:
    """Add the gradient of an output, contracted with a cotangent, to running totals."""
    found = torch.autograd.grad(output, parameters, cotangent, allow_unused=True)
    for total, gradient in zip(totals, found, strict=True):
        if gradient is not None:
            total.add_(gradient)


def summed(
    parameters: list[Tensor],
    gradients: list[Tensor],
    values: Float[Tensor, " N"],
    variances: Float[Tensor, " N"],
    method: Method,
) -> Update:
    """The update of gradients that were summed over batches with `per_prompt_slopes`.

    ppo's slope needs the moments of all prompts, but is one number: it is put on here.
    """
    if method == "ppo":
        scale = float(population_advantages(values, variances, method).slope[0])
        gradients = [g.mul_(scale) for g in gradients]
    return Update(parameters, gradients, length(gradients))


def length(gradients: Sequence[Tensor]) -> float:
    """‖·‖ of all gradients together."""
    each = torch.stack([torch.linalg.vector_norm(g) for g in gradients])
    return float(torch.linalg.vector_norm(each))
