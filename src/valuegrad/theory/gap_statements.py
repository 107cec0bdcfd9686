"""The statements of the sampling gap and of attention paths: Eqs. 20, 21, Props. 2, 3."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh, svds
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from valuegrad.credit.attention_paths import attention_paths, weight_correlation
from valuegrad.credit.sampling_gap import LINKS, SamplingGap, sampling_gaps
from valuegrad.model.cache import Cache, decode_embedding, prefill
from valuegrad.model.policy import Policy, Site, logits
from valuegrad.model.sites import recorded, shifted, without_parameter_gradients
from valuegrad.theory.case import COMPLETION, Case
from valuegrad.theory.statement import Statement, equality, inequality

TEMPERATURES = (1.0, 0.5)
# Iteration promises 1e-4; a norm that is wrong by 1% is seen.
NORM = 1e-3
GRID = 5040  # of p_max in the search for C_V; it holds 1/2, 1/3 … 1/10


def sampling_gap_statements(case: Case) -> Iterator[Statement]:
    """The gap and each of its bounds by another route, and every link of the chain of bounds."""
    start = len(case.prompt) - 1
    positions = range(start, start + COMPLETION)
    every = [sampling_gaps(case.policy, case.sequence, positions, tau) for tau in TEMPERATURES]
    yield from _by_another_route(case, [found[0] for found in every])
    names = (
        "gap ≤ N ‖diag p − ppᵀ‖",
        "… ≤ N (1 − ‖p‖²)",
        "… ≤ N 2(1 − p_max)",
        "… ≤ N 2 C_V sqrt(H / log V)",
        "gap ≤ N min(1/2, 1 − ‖p‖², H)",
        "sharp bound ≤ the paper's",
    )
    for name, link in zip(names, LINKS, strict=True):
        sides = [tuple(getattr(gap, side) for side in link) for found in every for gap in found]
        tightest = max(sides, key=lambda pair: pair[0] / (pair[1] or 1.0))
        yield inequality(name, "Prop. 2", *tightest, note=f"the tightest of {len(sides)} points")


def _by_another_route(case: Case, measured: list[SamplingGap]) -> Iterator[Statement]:
    """The prompt's last position: dense Jacobians, tables by Lanczos, sums in another order."""
    policy, token = case.policy, case.sequence[len(case.prompt)]
    with torch.no_grad():
        cache, finals = prefill(policy, case.prompt)
        z = logits(policy, finals[-1])
    gaps = [_dense_gap(policy, cache, finals[-1], token, tau) for tau in TEMPERATURES]
    name = "gap = ‖∂h_{t+1}/∂h_t‖₂ through the soft token, dense, by autograd"
    yield equality(name, "Eq. 20", [m.gap for m in measured], gaps, NORM)
    step = _dense(lambda e: decode_embedding(policy, cache, e)[1], policy.embedding[token])
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
    left = [m.smallest_constant for m in measured]
    shares = [factor["entropy in nats"] / math.log(len(z)) for factor in factors]
    right = [gap / math.sqrt(share) for gap, share in zip(gaps, shares, strict=True)]
    yield equality("the least C of Eq. 21 = gap sqrt(log V / H)", "Eq. 21", left, right, NORM)


def _dense_gap(policy: Policy, cache: Cache, h: Tensor, token: int, tau: float) -> float:
    """‖∂h_{t+1}/∂h_t‖₂ where step t + 1 reads a token whose gradient is its soft one's."""
    hard, soft = policy.embedding[token], (logits(policy, h) / tau).softmax(0).detach()

    def through(states: Tensor) -> Tensor:
        change = (logits(policy, states) / tau).softmax(1) - soft
        return decode_embedding(policy, cache, hard + change @ policy.embedding)[1]

    with without_parameter_gradients(policy.model):
        return float(torch.linalg.matrix_norm(_dense(through, h), 2))


@sdpa_kernel(SDPBackend.MATH)
def _dense(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """The Jacobian of a function of rows to as many coordinates, one backward pass a row of it."""
    rows = []
    for units in torch.split(torch.eye(len(point)).to(point), 64):
        leaf = point.detach().expand(len(units), -1).clone().requires_grad_()
        with torch.enable_grad():
            (found,) = torch.autograd.grad(function(leaf), leaf, units)
        rows.append(found)
    return torch.cat(rows)


def _norm(table: Tensor) -> float:
    """‖·‖₂ by Lanczos iteration on the table itself."""
    start = np.ones(min(table.shape))
    return float(svds(table.double().cpu().numpy(), 1, v0=start, return_singular_vectors=False)[0])


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


def attention_statements(case: Case) -> Iterator[Statement]:
    """Prop. 3, with the norm and the effective rank that it leaves open."""
    query = len(case.sequence) - 1
    keys = sorted({query * i // 8 for i in range(8)})
    depth = len(case.policy.blocks)
    layer, layers = depth // 2, sorted({0, depth // 2, depth - 1})
    paths = attention_paths(case.policy, case.sequence, query, keys, layers)
    (path,) = (p for p in paths if (p.layer, p.key) == (layer, keys[-1]))
    dense = _dense_path(case.policy, case.sequence, layer, keys[-1], query)
    norm = float(torch.linalg.matrix_norm(dense, 2))
    name, note = "‖∂h_query/∂h_key‖₂ of a block = dense, through the model", f"block {layer}"
    yield equality(name, "Prop. 3", path.norm, norm, NORM, note=note)
    name = "its effective rank ‖·‖_F² / ‖·‖₂² likewise"
    rank = float(dense.square().sum()) / norm**2
    yield equality(name, "Prop. 3", path.effective_rank, rank, NORM, note=note)
    widest = max(paths, key=lambda path: path.effective_rank)
    each = [weight_correlation([path for path in paths if path.layer == i]) for i in layers]
    name = "effective rank of the attention path ≤ d_head · n_heads"
    note = f"the width is {widest.width}; rank correlation of its norm with the attention "
    note += f"weight {min(each):.2f} to {max(each):.2f} by layer"
    sides = widest.effective_rank, float(widest.rank_bound)
    yield inequality(name, "Prop. 3", *sides, note=note)


def _dense_path(policy: Policy, sequence: list[int], layer: int, key: int, query: int) -> Tensor:
    """∂h_query^(ℓ)/∂h_key^(ℓ−1) with the whole model run, one backward pass a row of it."""
    below: Site = layer - 1 if layer else "embedding"
    ids = torch.tensor([sequence], device=policy.device)

    def through(moved: Tensor) -> Tensor:
        # In this order, since what is recorded at the embedding is a leaf.
        with recorded(policy, [layer]) as states, shifted(policy, below, key, moved):
            policy.model.base_model(input_ids=ids.expand(len(moved), -1), use_cache=False)
        return states[layer][:, query]

    return _dense(through, policy.head.new_zeros(policy.head.shape[1]))
