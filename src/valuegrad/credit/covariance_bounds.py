"""Bounds on the sampling gap that keep the token distribution between the tables (theory §4).

With C = diag p − ppᵀ and B = ∂h_{t+1}/∂e_t, J_sample = (1/τ) B Eᵀ C W, and Cov_p(E) = Eᵀ C E and
Cov_p(W) = Wᵀ C W are the covariances of a token's embedding and head vector. Hence

gap ≤ (1/τ) ‖B Cov_p(E)^½‖ ‖Cov_p(W)^½‖ ≤ (1/τ) ‖B‖ sqrt(λ_max Cov_p(E) · λ_max Cov_p(W))
    ≤ (1/2τ) (1 − ‖p‖²) ‖B‖ diam(E) diam(W) ≤ (1/2τ) min(1, H) ‖B‖ diam(E) diam(W),

the third because vᵀ Cov_p v = ½ Σ p_i p_j (v·(e_i − e_j))².

D width · V vocabulary
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from valuegrad.credit.bounds import bounds, entropy
from valuegrad.credit.jacobians import operator, spectral_norm
from valuegrad.model.policy import Policy

# Multiplications beyond which a diameter is bounded by twice the radius instead.
PAIRS = 1e13
ROWS = 2048


@dataclass(frozen=True)
class CovarianceBounds:
    """Bounds on the sampling gap, state per state, each at most the next."""

    covariance: float
    covariance_norms: float
    diameter: float
    diameter_entropy: float


def covariance_bounds(
    policy: Policy,
    step: LinearOperator,
    step_norm: float,
    p: Float[Tensor, " V"],
    temperature: float,
    diameters: tuple[float, float],
) -> CovarianceBounds:
    """The chain of covariance bounds at one position, matrix-free.

    Args:
        policy: the policy.
        step: ∂h_{t+1}/∂e_t, from `step_jacobian`.
        step_norm: its spectral norm.
        p: softmax(z_t / τ).
        temperature: τ.
        diameters: of embedding and head, from `table_diameters`.

    Returns:
        The four bounds.

    Example:
        ``covariance_bounds(policy, step, 1.2, p, 1.0, table_diameters(policy)).covariance``
    """
    embedding, head = (_covariance(table, p) for table in (policy.embedding, policy.head))
    carried = spectral_norm(step @ embedding @ step.H)
    by_embedding, by_head = spectral_norm(embedding), spectral_norm(head)
    factors = bounds(p)
    half = step_norm * diameters[0] * diameters[1] / (2 * temperature)
    return CovarianceBounds(
        covariance=math.sqrt(carried * by_head) / temperature,
        covariance_norms=step_norm * math.sqrt(by_embedding * by_head) / temperature,
        diameter=half * float(factors.trace),
        diameter_entropy=half * min(1.0, float(entropy(p))),
    )


def _covariance(table: Float[Tensor, "V D"], p: Float[Tensor, " V"]) -> LinearOperator:
    """Cov_p of a table's rows, (D, D), from rows about their mean, so that little cancels."""
    weight = p.to(table)[: len(table)]
    mean = weight @ table

    def product(rows: Float[Tensor, "m D"]) -> Float[Tensor, "m D"]:
        along = (rows @ table.mT - (rows @ mean)[:, None]) * weight
        return along @ table - along.sum(1, keepdim=True) * mean

    return operator((table.shape[1], table.shape[1]), product, product, table)


@torch.no_grad()
def table_diameters(policy: Policy) -> tuple[float, float]:
    """The largest distance of two rows of the embedding, and of the head; done once a model.

    Above 1e13 multiplications it is twice the radius about the mean, at most twice as large.
    """
    tied = policy.embedding.data_ptr() == policy.head.data_ptr()
    head = diameter(policy.head)
    return head if tied else diameter(policy.embedding), head


def diameter(table: Float[Tensor, "V D"]) -> float:
    """The largest distance of two rows of a table."""
    centred = table.double() - table.double().mean(0)
    squares = centred.square().sum(1)
    if len(table) ** 2 * table.shape[1] > PAIRS:
        return 2 * float(squares.max().sqrt())
    # In the table's own dtype, in which such products are fastest; the largest is then made exact.
    narrow, best, pair = centred.to(table.dtype), -1.0, (0, 0)
    for start in range(0, len(table), ROWS):
        rows = narrow[start : start + ROWS]
        found = squares[start : start + ROWS, None].to(rows) + squares.to(rows)
        found = found.addmm_(rows, narrow.mT, alpha=-2)
        place = int(found.argmax())
        if float(found.flatten()[place]) > best:
            best = float(found.flatten()[place])
            pair = (start + place // len(table), place % len(table))
    return float((centred[pair[0]] - centred[pair[1]]).norm())
