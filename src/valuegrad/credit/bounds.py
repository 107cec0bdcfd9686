"""Bounds on the sampling gap from the next-token distribution alone (Prop. 2, Eq. 21).

gap ≤ N ‖diag p − ppᵀ‖₂ ≤ N (1 − ‖p‖²) ≤ N 2(1 − p_max) ≤ N 2 C_V sqrt(H / log V), N the product of
the norms on the path. Sharper: 1 − ‖p‖² ≤ H, for −log x ≥ 1 − x, and ‖diag p − ppᵀ‖₂ ≤ 1/2 always,
so gap ≤ N min(1/2, 1 − ‖p‖², H).

B distributions · V tokens · entropies in nats
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.optimize import brentq
from torch import Tensor

from valuegrad.errors import UserError


@dataclass(frozen=True, eq=False)
class Bounds:
    """What stands in the place of ‖diag p − ppᵀ‖₂, all without N and 1/τ."""

    spectral: Float[Tensor, "*B"]  # ‖diag p − ppᵀ‖₂ itself
    trace: Float[Tensor, "*B"]  # 1 − ‖p‖²
    maximum: Float[Tensor, "*B"]  # 2 (1 − p_max)
    linear: Float[Tensor, "*B"]  # min(1/2, 1 − ‖p‖², H), the sharp bound
    entropy: Float[Tensor, "*B"]  # 2 · 0.637 sqrt(H): Prop. 2 with log V cancelled
    paper: Float[Tensor, "*B"]  # 2 C_V sqrt(H / log V), the paper's form with its best constant


def bounds(p: Float[Tensor, "*B V"]) -> Bounds:
    """Every link of the chain that bounds the sampling gap (Prop. 2), for given distributions.

    Args:
        p: next-token distributions (…, V) at the temperature of the relaxation.

    Returns:
        Factors `spectral`, `trace`, `maximum`, `linear`, `entropy` and `paper`, each (…), float64:
        N times any of them bounds the gap.

    Example:
        >>> found = bounds(torch.tensor([0.5, 0.5]))
        >>> found.spectral.item(), found.linear.item()
        (0.5, 0.5)
    """
    p = p.double()
    # Taken of the other tokens, these keep their digits where one token has nearly all the mass.
    others = p.scatter(-1, p.argmax(-1, keepdim=True), 0.0)
    rest, h, vocabulary = others.sum(-1), entropy(p), p.shape[-1]
    # 1 − ‖p‖² = 1 − (1 − rest)² − Σ others².
    trace = (2 * rest - rest.square() - others.square().sum(-1)).clamp(min=0)
    # With a vocabulary of one token C_V is 0, and so is log V.
    paper = 2 * entropy_constant(vocabulary) / (math.log(vocabulary) ** 0.5 or 1.0)
    return Bounds(
        spectral=covariance_norm(p),
        trace=trace,
        maximum=2 * rest,
        linear=torch.minimum(trace, h).clamp(max=0.5),
        entropy=2 * (0.75 / math.log(4) ** 0.5) * h.sqrt(),
        paper=paper * h.sqrt(),
    )


def entropy_constant(vocabulary: int) -> float:
    """C_V = sup over distributions of (1 − p_max) / sqrt(H / log V), the constant of Prop. 2.

    The supremum is at the uniform distribution over m tokens, m = 4 where there are as many: so
    C_V = 0.637 sqrt(log V) and log V cancels from the bound.

    Args:
        vocabulary: V.

    Returns:
        C_V, 0 for a vocabulary of one token.

    Raises:
        UserError: no tokens.

    Example:
        >>> round(entropy_constant(50_304) / math.log(50_304) ** 0.5, 5)
        0.63699
    """
    if vocabulary < 1:
        raise UserError("vocabulary", str(vocabulary), "at least 1", "pass the number of tokens")
    if vocabulary == 1:
        return 0.0
    # At a given p_max the entropy is least where as many tokens as fit share it and one the rest.
    uniform = min(vocabulary, 4)
    return (1 - 1 / uniform) * math.sqrt(math.log(vocabulary) / math.log(uniform))


def entropy(p: Float[Tensor, "*B V"]) -> Float[Tensor, "*B"]:
    """H = −Σ p log p, in nats; entries of 0 count as 0."""
    return (0 - torch.xlogy(p, p).sum(-1)).clamp(min=0)


def covariance_norm(p: Float[Tensor, "*B V"]) -> Float[Tensor, "*B"]:
    """‖diag p − ppᵀ‖₂, the largest variance of a one-hot draw in any direction, in float64."""
    flat = p.double().reshape(-1, p.shape[-1])
    roots = torch.tensor([_largest_root(row) for row in flat], dtype=torch.float64)
    return roots.view(p.shape[:-1])


def _largest_root(p: Tensor) -> float:
    """λ of Σ p_i² / (p_i − λ) = 1, between the two largest p_i; where they are equal, that one."""
    values = p[p > 0].sort(descending=True).values
    if len(values) < 2:
        return 0.0
    first, second = float(values[0]), float(values[1])
    width = first - second
    # λ = p_(2) + y, multiplied by y, with first² − first written as −first · rest: every term is
    # then as small as the answer, also where one token has all but 1e-16 of the mass.
    rest, squares, below = float(values[1:].sum()), values[2:].square(), second - values[2:]

    def excess(y: float) -> float:
        own = y * (y + second - first * rest) / (width - y)
        return own - second**2 - float((squares * y / (below + y)).sum())

    upper = width * (1 - 2**-52)
    if upper <= 0 or excess(upper) <= 0:
        return first
    root = brentq(excess, width * 2**-1000, upper, xtol=1e-300, rtol=8.9e-16, maxiter=1000)
    return second + float(root)
