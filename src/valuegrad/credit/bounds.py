"""Bounds on the sampling gap from the next-token distribution alone (Prop. 2, theory §4).

gap ≤ N ‖diag p − ppᵀ‖₂ ≤ N (1 − ‖p‖²) ≤ N 2(1 − p_max) ≤ N 2 C_V sqrt(H / log V)

with N the product of the norms on the path. Sharper: 1 − ‖p‖² ≤ H, because −log x ≥ 1 − x, and the
spectral norm of a one-hot covariance is never above 1/2; so gap ≤ N min(1/2, 1 − ‖p‖², H).

B distributions · V tokens · entropies in nats
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.optimize import brentq
from torch import Tensor

from valuegrad.errors import UserError


def entropy(p: Float[Tensor, "*B V"]) -> Float[Tensor, "*B"]:
    """H = −Σ p log p, in nats; entries of 0 count as 0.

    Args:
        p: distributions.

    Returns:
        One number a distribution.

    Example:
        >>> entropy(torch.tensor([0.0, 1.0])).item()
        0.0
    """
    return (0 - torch.xlogy(p, p).sum(-1)).clamp(min=0)


def covariance_norm(p: Float[Tensor, "*B V"]) -> Float[Tensor, "*B"]:
    """‖diag p − ppᵀ‖₂, the largest variance of a one-hot draw in any direction.

    The largest root of the secular equation Σ p_i² / (p_i − λ) = 1, which lies between the two
    largest probabilities; where these are equal it is that probability.

    Args:
        p: distributions, entries at least 0 with sum 1.

    Returns:
        One norm a distribution, at most 1/2, float64.

    Example:
        >>> covariance_norm(torch.tensor([0.5, 0.5])).item()
        0.5
    """
    flat = p.double().reshape(-1, p.shape[-1])
    return torch.tensor([_largest_root(row) for row in flat], dtype=torch.float64).view(
        p.shape[:-1]
    )


def entropy_constant(vocabulary: int) -> float:
    """C_V = sup over distributions of (1 − p_max) / sqrt(H / log V), the constant of Prop. 2.

    At a given p_max the entropy is least where as many tokens as fit share p_max and one takes the
    rest; over p_max the ratio then peaks where the distribution is uniform over m tokens. The best
    m is 4, so that C_V = 0.637 sqrt(log V) for V ≥ 4 and log V cancels from the bound.

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
    uniform = min(vocabulary, 4)
    return (1 - 1 / uniform) * math.sqrt(math.log(vocabulary) / math.log(uniform))


@dataclass(frozen=True, eq=False)
class Bounds:
    """The factors that bounds put in the place of ‖diag p − ppᵀ‖₂, all without N and 1/τ.

    Attributes:
        entropy: H in nats.
        spectral: ‖diag p − ppᵀ‖₂ itself.
        trace: 1 − ‖p‖².
        maximum: 2 (1 − p_max).
        root: 2 · 0.637 sqrt(H): Prop. 2 with log V cancelled, right for any vocabulary.
        paper: 2 C_V sqrt(H / log V), the paper's form with its best constant.
        linear: min(1/2, 1 − ‖p‖², H), the sharp bound: linear in H for confident policies.
    """

    entropy: Float[Tensor, "*B"]
    spectral: Float[Tensor, "*B"]
    trace: Float[Tensor, "*B"]
    maximum: Float[Tensor, "*B"]
    root: Float[Tensor, "*B"]
    paper: Float[Tensor, "*B"]
    linear: Float[Tensor, "*B"]


def bounds(p: Float[Tensor, "*B V"]) -> Bounds:
    """Every link of the chain for given distributions.

    Args:
        p: next-token distributions at the temperature of the relaxation.

    Returns:
        The factors, float64.

    Example:
        >>> found = bounds(torch.tensor([0.5, 0.5]))
        >>> found.spectral.item(), found.linear.item()
        (0.5, 0.5)
    """
    p = p.double()
    # Taken of the other tokens, these keep their digits where one token has nearly all the mass.
    largest = p.argmax(-1, keepdim=True)
    others = p.scatter(-1, largest, 0.0)
    rest = others.sum(-1)
    h = entropy(p) if p.shape[-1] > 1 else torch.zeros_like(rest)
    # 1 − ‖p‖² = 1 − (1 − rest)² − Σ others².
    trace = (2 * rest - rest.square() - others.square().sum(-1)).clamp(min=0)
    vocabulary = p.shape[-1]
    paper = (
        0.0 if vocabulary == 1 else 2 * entropy_constant(vocabulary) / math.log(vocabulary) ** 0.5
    )
    half = torch.full_like(h, 0.5)
    return Bounds(
        entropy=h,
        spectral=covariance_norm(p),
        trace=trace,
        maximum=2 * rest,
        root=2 * (0.75 / math.log(4) ** 0.5) * h.sqrt(),
        paper=paper * h.sqrt(),
        linear=torch.minimum(torch.minimum(half, trace), h),
    )


def _largest_root(p: Tensor) -> float:
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
