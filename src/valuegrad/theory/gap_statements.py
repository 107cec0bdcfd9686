"""The statements of the sampling gap and its bounds: Eqs. 20, 21, Prop. 2."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh, svds
from torch import Tensor

from valuegrad.credit.covariance_bounds import diameter, table_diameters
from valuegrad.credit.sampling_gap import LINKS, SamplingGap, sampling_gaps, table_norms
from valuegrad.model.cache import Cache, decode_embedding, prefill
from valuegrad.model.policy import Policy, logits
from valuegrad.model.sites import without_parameter_gradients
from valuegrad.theory.case import COMPLETION, Case
from valuegrad.theory.dense_jacobian import NORM, dense
from valuegrad.theory.statement import Statement, equality, inequality

TEMPERATURES = (1.0, 0.5)
ROWS = 2048  # of a table, of which every distance is formed
GRID = 5040  # of p_max in the search for C_V; it holds 1/2, 1/3 … 1/10


def sampling_gap_statements(case: Case) -> Iterator[Statement]:
    """The gap and each of its bounds by another route, and every link of the chain of bounds."""
    start = len(case.prompt) - 1
    positions = range(start, start + COMPLETION)
    known = {"norms": table_norms(case.policy), "diameters": table_diameters(case.policy)}
    every = [
        sampling_gaps(case.policy, case.sequence, positions, tau, **known) for tau in TEMPERATURES
    ]
    yield from _by_another_route(case, [found[0] for found in every], known["diameters"])
    names = (
        "gap ≤ N ‖diag p − ppᵀ‖",
        "… ≤ N (1 − ‖p‖²)",
        "… ≤ N 2(1 − p_max)",
        "… ≤ N 2 C_V sqrt(H / log V)",
        "gap ≤ N min(1/2, 1 − ‖p‖², H)",
        "sharp bound ≤ the paper's",
        "gap ≤ (1/τ) ‖B Cov_p(E)^½‖ ‖Cov_p(W)^½‖",
        "… ≤ (1/τ) ‖B‖ sqrt(λ_max Cov_p(E) · λ_max Cov_p(W))",
        "… ≤ (1/2τ) (1 − ‖p‖²) ‖B‖ diam(E) diam(W)",
        "… ≤ (1/2τ) min(1, H) ‖B‖ diam(E) diam(W)",
    )
    for name, link in zip(names, LINKS, strict=True):
        sides = [tuple(getattr(gap, side) for side in link) for found in every for gap in found]
        tightest = max(sides, key=lambda pair: pair[0] / (pair[1] or 1.0))
        yield inequality(name, "Prop. 2", *tightest, note=f"the tightest of {len(sides)} points")


def _by_another_route(
    case: Case, measured: list[SamplingGap], diameters: tuple[float, float]
) -> Iterator[Statement]:
    """The prompt's last position: dense Jacobians, tables by Lanczos, sums in another order."""
    policy, token = case.policy, case.sequence[len(case.prompt)]
    with torch.no_grad():
        cache, finals = prefill(policy, case.prompt)
        z = logits(policy, finals[-1])
    gaps = [_dense_gap(policy, cache, finals[-1], token, tau) for tau in TEMPERATURES]
    name = "gap = ‖∂h_{t+1}/∂h_t‖₂ through the soft token, dense, by autograd"
    yield equality(name, "Eq. 20", [m.gap for m in measured], gaps, NORM)
    step = dense(lambda e: decode_embedding(policy, cache, e)[1], policy.embedding[token])
    norms = [float(torch.linalg.matrix_norm(step, 2)), *map(_norm, (policy.embedding, policy.head))]
    sizes = [math.prod(norms) / tau for tau in TEMPERATURES]
    name = "N = (1/τ) ‖∂h_{t+1}/∂e_t‖ ‖E‖ ‖W‖, dense and by Lanczos"
    yield equality(name, "Prop. 2", [m.product_norm for m in measured], sizes, NORM)
    factors = [_factors((z / tau).double()) for tau in TEMPERATURES]
    named = {
        "spectral": "N ‖diag p − ppᵀ‖₂, its largest eigenvalue by Lanczos",
        "trace": "N (1 − ‖p‖²) = N Σ_i p_i Σ_{j≠i} p_j",
        "maximum": "N 2(1 − p_max) = N 2 Σ of all others",
        "linear": "N min(1/2, 1 − ‖p‖², H), H = log Σ eᶻ − p·z",
        "entropy": "N 1.274 sqrt(H), its constant by search",
        "paper": "N 2 C_V sqrt(H / log V), C_V by search",
    }
    for field, name in named.items():
        left = [getattr(m, f"bound_{field}") for m in measured]
        right = [size * factor[field] for size, factor in zip(sizes, factors, strict=True)]
        yield equality(name, "Prop. 2", left, right, NORM)
    tables = policy.embedding[:ROWS].double(), policy.head[:ROWS].double()
    distances = [_largest_distance(table) for table in tables]
    name, note = "diam(E), diam(W) = largest distance of rows", f"of {len(tables[1])} of {len(z)}"
    yield equality(name, "Prop. 2", [diameter(t) for t in tables], distances, note=note)
    apart = math.prod(distances if len(z) <= ROWS else diameters) * norms[0] / 2
    spread = {
        "covariance": "(1/τ) ‖B Cov_p(E)^½‖ ‖Cov_p(W)^½‖, dense",
        "covariance_norms": "(1/τ) ‖B‖ sqrt(λ_max Cov_p(E) · λ_max Cov_p(W)), dense",
        "diameter": "(1/2τ) (1 − ‖p‖²) ‖B‖ diam(E) diam(W), of these",
        "diameter_entropy": "(1/2τ) min(1, H) ‖B‖ diam(E) diam(W), of these",
    }
    sides = [_spread(policy, (z / tau).double().softmax(0), step) for tau in TEMPERATURES]
    for side, factor in zip(sides, factors, strict=True):
        side["diameter"] = apart * factor["trace"]
        side["diameter_entropy"] = apart * min(1.0, factor["entropy in nats"])
    for field, name in spread.items():
        left = [getattr(m, f"bound_{field}") for m in measured]
        right = [side[field] / tau for side, tau in zip(sides, TEMPERATURES, strict=True)]
        yield equality(name, "Prop. 2", left, right, NORM)
    shares = [factor["entropy in nats"] / math.log(len(z)) for factor in factors]
    left = [m.smallest_constant for m in measured]
    right = [gap / math.sqrt(share) for gap, share in zip(gaps, shares, strict=True)]
    yield equality("the least C of Eq. 21 = gap sqrt(log V / H)", "Eq. 21", left, right, NORM)


def _dense_gap(policy: Policy, cache: Cache, h: Tensor, token: int, tau: float) -> float:
    """‖∂h_{t+1}/∂h_t‖₂ where step t + 1 reads a token whose gradient is its soft one's."""
    hard, soft = policy.embedding[token], (logits(policy, h) / tau).softmax(0).detach()

    def through(states: Tensor) -> Tensor:
        change = (logits(policy, states) / tau).softmax(1) - soft
        return decode_embedding(policy, cache, hard + change @ policy.embedding)[1]

    with without_parameter_gradients(policy.model):
        return float(torch.linalg.matrix_norm(dense(through, h), 2))


def _norm(table: Tensor) -> float:
    """‖·‖₂ by Lanczos iteration on the table itself."""
    start = np.ones(min(table.shape))
    return float(svds(table.double().cpu().numpy(), 1, v0=start, return_singular_vectors=False)[0])


def _largest_distance(table: Tensor) -> float:
    """Of any two rows, by subtraction."""
    mode = "donot_use_mm_for_euclid_dist"
    parts = torch.split(table, 256)
    return max(float(torch.cdist(part, table, compute_mode=mode).max()) for part in parts)


def _spread(policy: Policy, p: Tensor, step: Tensor) -> dict[str, float]:
    """The covariance bounds times τ, of dense covariances of a token's rows."""
    covariances = []
    for table in (policy.embedding, policy.head):
        centred = table.double() - p @ table.double()
        covariances.append((centred * p[:, None]).mT @ centred)
    by_embedding, by_head = (float(torch.linalg.eigvalsh(c)[-1]) for c in covariances)
    carried = float(torch.linalg.eigvalsh(step @ covariances[0] @ step.mT)[-1])
    norm = float(torch.linalg.matrix_norm(step, 2))
    return {
        "covariance": math.sqrt(carried * by_head),
        "covariance_norms": norm * math.sqrt(by_embedding * by_head),
    }


def _factors(z: Tensor) -> dict[str, float]:
    """What stands beside N in each bound, of softmax(z), by other routes than `bounds` takes."""
    p, count = z.softmax(0).cpu(), len(z)
    before = torch.cat([p.new_zeros(1), p.cumsum(0)[:-1]])
    others = before + torch.cat([p.flip(0).cumsum(0).flip(0)[1:], p.new_zeros(1)])
    entropy = float(z.logsumexp(0) - z.softmax(0) @ z)
    trace, root = float(p @ others), math.sqrt(entropy)

    def product(x: np.ndarray) -> np.ndarray:
        flat = torch.from_numpy(x.reshape(-1))
        return (p * (flat - p @ flat)).numpy()

    covariance = LinearOperator((count, count), product, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(count)
    return {
        "spectral": float(eigsh(covariance, 1, v0=start, return_eigenvectors=False)[0]),
        "trace": trace,
        "maximum": 2 * float(others[p.argmax()]),
        "linear": min(0.5, trace, entropy),
        "entropy": 2 * _largest_ratio(count=GRID) * root,
        "paper": 2 * _largest_ratio(count) * root,
        "entropy in nats": entropy,
    }


def _largest_ratio(count: int) -> float:
    """The largest (1 − p_max) / sqrt(H) over distributions of so many tokens."""
    # At a given p_max H is least where as many tokens as fit have it and one has the rest.
    largest = 0.0
    for k in range(1, GRID):
        fit = GRID // k
        rest = (GRID - fit * k) / GRID
        if fit + (rest > 0) <= count:
            x = k / GRID
            entropy = -fit * x * math.log(x) - (rest * math.log(rest) if rest else 0.0)
            largest = max(largest, (1 - x) / math.sqrt(entropy))
    return largest
