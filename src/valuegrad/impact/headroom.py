"""Reachable headroom: how far the reward rises under the best policy near this one (Eq. 28).

B prompts · A outcomes
"""

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.errors import UserError, check_positive
from valuegrad.impact.settings import ALPHA

LARGE = 50.0  # nats; above this e^x drowns the digits that expm1 saves


def headroom(
    rewards: Float[Tensor, "*B A"],
    alpha: float = ALPHA,
    probabilities: Float[Tensor, "*B A"] | None = None,
) -> Float[Tensor, "*B"]:
    """H_α = (1/α) log E[e^{αR}] − E[R] of each prompt, in float64.

    Args:
        rewards: of each outcome.
        alpha: tilt in inverse reward units, above 0.
        probabilities: of each outcome, rows that sum to 1; equal by default, as of samples.

    Returns:
        The headroom, 0 or more; from samples it is biased downwards.

    Raises:
        UserError: an alpha that is not above 0, no outcomes, rewards that are not finite,
            probabilities of another shape or that are not a distribution.

    Example:
        >>> headroom(torch.tensor([1.0, 0.0]), 5.0, torch.tensor([0.5, 0.5])).item()
        0.3627...
    """
    check_positive("alpha", alpha, "use 5 for rewards in [0, 1]")
    r = rewards.double()
    if r.shape[-1:] in ((), (0,)) or not torch.isfinite(r).all():
        got = f"shape {tuple(r.shape)}, {int((~torch.isfinite(r)).sum())} not finite"
        wanted = "finite rewards of at least one outcome"
        raise UserError("rewards", got, wanted, "leave out what could not be rewarded")
    if probabilities is None:
        p = torch.full_like(r, 1 / r.shape[-1])
    else:
        p = probabilities.double()
        if p.shape != r.shape or (p < 0).any() or ((p.sum(-1) - 1).abs() > 1e-4).any():
            got, wanted = f"shape {tuple(p.shape)}", "a distribution for each row of rewards"
            raise UserError("probabilities", got, wanted, "normalise them over the last dimension")
    centred = alpha * (r - (p * r).sum(-1, keepdim=True))
    return log_mean_exp(p, centred) / alpha


def log_mean_exp(p: Float[Tensor, "*B A"], x: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
    """Log E[e^x] of exponents with mean 0, to full precision also where nearly all are nearly 0."""
    largest = torch.where(p > 0, x, -torch.inf).amax(-1, keepdim=True)
    small = torch.log1p((p * torch.expm1(x.clamp(max=LARGE))).sum(-1))
    large = torch.logsumexp(p.log() + x - largest, -1) + largest[..., 0]
    return torch.where(largest[..., 0] < LARGE, small, large)
