"""Jacobians as dense matrices, a row by a backward pass: the route that operators are held against.

m points · D width · K width of what is reached
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

# Norms by iteration promise 1e-4 of them; one that is wrong by 1% is seen.
NORM = 1e-3


@sdpa_kernel(SDPBackend.MATH)
def dense(
    function: Callable[[Float[Tensor, "m D"]], Float[Tensor, "m D"]], point: Float[Tensor, " D"]
) -> Float[Tensor, "D D"]:
    """The Jacobian of a function of rows to as many coordinates, one backward pass a row of it."""
    rows = list[Tensor]()
    for units in torch.split(torch.eye(len(point)).to(point), 64):
        leaf = point.detach().expand(len(units), -1).clone().requires_grad_()
        with torch.enable_grad():
            (found,) = torch.autograd.grad(function(leaf), leaf, units)
        rows.append(found)
    return torch.cat(rows)
