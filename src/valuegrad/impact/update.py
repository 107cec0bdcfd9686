"""The update of a method: the expectation of the gradient that RL forms (Eqs. 1, 2, 24).

For completions o with advantages Â over groups of the budget's size and w(T) of `token_weight` it
is mean_q Σ_o π(o|q) E[Â|o] w(T_o) ∇ log π(o|q) at the policy that draws them, where no ratio is
clipped yet.

R completions
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.model.batches import scored_batches
from valuegrad.model.policy import Policy, logits


@dataclass(frozen=True, eq=False)
class Update:
    """An update of a method."""

    parameters: list[Tensor]  # what it moves
    gradients: list[Tensor]  # of the objective, to be maximised, one a parameter
    gradient_norm: float  # their length, without the bias of rollouts where they are drawn


def moving_parameters(policy: Policy) -> list[Tensor]:
    """The parameters that RL moves."""
    return [p for p in policy.model.parameters() if p.requires_grad]


@contextmanager
def restored(parameters: Sequence[Tensor]) -> Iterator[None]:
    """While open parameters may point to other values; afterwards to the old ones, bit for bit."""
    saved = [p.data for p in parameters]
    try:
        yield
    finally:
        for p, old in zip(parameters, saved, strict=True):
            p.data = old


def add_gradients(
    totals: list[Tensor], output: Tensor, parameters: list[Tensor], cotangent: Tensor
) -> None:
    """Add the gradient of an output, contracted with a cotangent, to running totals."""
    found = torch.autograd.grad(output, parameters, cotangent, allow_unused=True)
    for total, gradient in zip(totals, found, strict=True):
        if gradient is not None:
            total.add_(gradient)


def weighted_gradients(
    policy: Policy,
    sequences: Sequence[Sequence[int]],
    starts: Sequence[int],
    weights: Float[Tensor, " R"],
    parameters: list[Tensor],
) -> list[Tensor]:
    """Σ_i w_i ∇ log π of completions that begin at some token of a sequence, one a parameter."""
    gradients = [torch.zeros_like(p) for p in parameters]
    # A completion without weight moves nothing and needs no pass.
    used = weights.nonzero()[:, 0].tolist()
    chosen, begun = [sequences[i] for i in used], [starts[i] for i in used]
    scale = weights[used].to(policy.device)
    for batch in scored_batches(policy, chosen, begun):
        log_p = logits(policy, batch.final_states(policy)).log_softmax(1)
        drawn_logp = log_p.gather(1, batch.target[:, None])[:, 0]
        cotangent = scale[batch.rows][batch.row].to(drawn_logp)
        add_gradients(gradients, drawn_logp, parameters, cotangent)
    return gradients


def length(gradients: Sequence[Tensor]) -> float:
    """‖·‖ of all gradients together."""
    return float(torch.nn.utils.get_total_norm(gradients))


def clipped(update: Update, longest: float) -> Update:
    """The update scaled down to a length as RL scales its gradients; its own length stays known."""
    reached = length(update.gradients)
    if not reached > longest:
        return update
    return replace(update, gradients=[g.mul_(longest / reached) for g in update.gradients])
