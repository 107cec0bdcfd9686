"""The update of a method: the expectation of the gradient that RL forms (Eqs. 1, 2, 24).

For completions o with advantages Â over groups of the budget's size and w(T) of `token_weight` it
is mean_q Σ_o π(o|q) E[Â|o] w(T_o) ∇ log π(o|q) at the policy that draws them, where no ratio is
clipped yet.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from valuegrad.model.policy import Policy


@dataclass(frozen=True, eq=False)
class Update:
    """An update of a method."""

    parameters: list[Tensor]  # what it moves
    gradients: list[Tensor]  # of the objective, to be maximised, one a parameter
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


def length(gradients: Sequence[Tensor]) -> float:
    """‖·‖ of all gradients together."""
    return float(torch.nn.utils.get_total_norm(gradients))


def clipped(update: Update, longest: float) -> Update:
    """The update scaled down to a length as RL scales its gradients; its own length stays known."""
    reached = length(update.gradients)
    if not reached > longest:
        return update
    return replace(update, gradients=[g.mul_(longest / reached) for g in update.gradients])
