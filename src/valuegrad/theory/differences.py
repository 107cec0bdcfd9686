"""Derivatives by central differences, the route that shares nothing with automatic differentiation.

m points · D width · K width of what is reached
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.model.policy import Policy

STEP = 1e-4
# The fourth-order formula: weights of the function at multiples of the step.
WEIGHTS = {-2: 1 / 12, -1: -8 / 12, 1: 8 / 12, 2: -1 / 12}
# Relative error of it in float64, with room: truncation and rounding are 1e-9 or so.
DIFFERENCES = 1e-6


def difference(function: Callable[[float], Tensor], step: float = STEP) -> Tensor:
    """The derivative at 0 of a function of one number, its value an array of any shape.

    Example:
        >>> one = torch.ones((), dtype=torch.float64)
        >>> round(float(difference(lambda x: (one + x).log())), 9)
        1.0
    """
    moved = torch.stack([w * function(k * step) for k, w in WEIGHTS.items()])
    return moved.sum(0) / step


@torch.no_grad()
def jacobian(
    function: Callable[[Float[Tensor, "m D"]], Float[Tensor, "m K"]], point: Float[Tensor, " D"]
) -> Float[Tensor, "K D"]:
    """The derivatives of a function of rows, a column for each coordinate of the point."""
    columns = list[Tensor]()
    for units in torch.split(torch.eye(len(point)).to(point), 64):
        moved = [w * function(point + k * STEP * units) for k, w in WEIGHTS.items()]
        columns.append(torch.stack(moved).sum(0) / STEP)
    return torch.cat(columns).mT


def unit_direction(policy: Policy, generator: torch.Generator) -> Float[Tensor, " D"]:
    """A random direction of the hidden state, of length 1."""
    drawn = torch.randn(policy.head.shape[1], generator=generator, dtype=torch.float64)
    direction: Tensor = drawn / drawn.norm()
    return direction.to(policy.device)
