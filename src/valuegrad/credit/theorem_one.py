"""Theorem 1 over the cache state: what sampling costs the costate, and the bound on it (Eq. 23).

The state that crosses a step is x_t = (c_t, h_t): keys and values, and the ``"final"`` vector.
A relaxed rollout maps x_t to x_{t+1} along two paths: attention A_t, with the soft token e_t fixed,
and sampling S_t = (∂x_{t+1}/∂e_t) Eᵀ (1/τ)(diag y − yyᵀ) W, which enters through h_t. BPTT follows
both, λ_t = ∂R/∂x_t + (A_t + S_t)ᵀ λ_{t+1}; the attention-only costate λ̂_t follows A_t. So

    λ̂_t − λ_t = A_tᵀ (λ̂_{t+1} − λ_{t+1}) − S_tᵀ λ_{t+1}
    ‖λ̂_1 − λ_1‖ ≤ Σ_{k>1} (Π_{j<k−1} ‖A_j‖) ε_k,  ε_k = ‖S_{k−1}‖ ‖λ_k‖

with γ = 1, as critic-free methods have it. ∂x_{t+1}/∂e_t holds the token's own keys and values,
which ∂h_{t+1}/∂e_t leaves out.

T steps · D width · V vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from valuegrad.credit.jacobians import Jacobian, of_function, sampling_jacobian, spectral_norm
from valuegrad.credit.relaxed import Relaxation, Reward, check_rollout, gumbel_noise, rewarded
from valuegrad.errors import UserError
from valuegrad.model.cache import Cache, advance_embedded, read
from valuegrad.model.policy import Policy, logits
from valuegrad.model.sites import without_parameter_gradients


@dataclass(frozen=True)
class TheoremOne:
    """Both sides of Theorem 1 at the first step of a rollout; made by `theorem_one`.

    Attributes:
        left: ‖E λ̂_1 − E λ_1‖ over the draws.
        right: the bound, its mean over the draws.
        paper_right: the bound as the paper's h → h form has it, its chain ending after one step.
        attention_norms: ‖A_t‖ of t = 1 … T − 2, of the first draw.
        gaps: ε_k of k = 2 … T, of the first draw.
        draws: number of rollouts.
    """

    left: float
    right: float
    paper_right: float
    attention_norms: tuple[float, ...]
    gaps: tuple[float, ...]
    draws: int


@dataclass(frozen=True, eq=False)
class _Rollout:
    """States x_1 … x_T of a relaxed rollout with ∂R/∂x_t, each flat: cache first, then h."""

    caches: list[Cache]
    soft: list[Tensor]
    costates: list[Tensor]


def theorem_one(
    policy: Policy,
    prompt: Sequence[int],
    length: int,
    reward: Reward,
    *,
    temperature: float = 1.0,
    draws: int = 1,
    seed: int = 0,
) -> TheoremOne:
    """Evaluate both sides of Theorem 1 for relaxed rollouts from one prompt.

    Args:
        policy: the policy.
        prompt: token ids.
        length: steps T; with one there is nothing to transport and both sides are 0.
        reward: R of the soft tokens (T, V), a differentiable scalar.
        temperature: τ, above 0.
        draws: rollouts with Gumbel noise to average over; 1 takes the one without noise.
        seed: of the noise.

    Returns:
        Both sides. The left one is autograd's alone, the right one never sees it.

    Raises:
        UserError: as `relaxed_costates`, or draws below 1.

    Example:
        ``theorem_one(policy, [5, 7], 3, lambda y: y[-1, 3]).right``
    """
    if draws < 1:
        raise UserError("draws", str(draws), "1 or more", "use 1 for a rollout without noise")
    generator = torch.Generator().manual_seed(seed)
    error, right, paper = torch.zeros(()), 0.0, 0.0
    kept: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    for draw in range(draws):
        noise = gumbel_noise(policy, length, generator) if draws > 1 else None
        relaxation = Relaxation(temperature, noise)
        table = check_rollout(policy, prompt, length, relaxation)
        with without_parameter_gradients(policy.model):
            full, attention = (
                _rollout(policy, prompt, length, reward, relaxation, table, detached)
                for detached in (False, True)
            )
            norms, gaps, short = _chain(policy, full, table, temperature)
        error = error.to(full.costates[0]) + (attention.costates[0] - full.costates[0]) / draws
        right += sum(math.prod(norms[:k]) * gap for k, gap in enumerate(gaps)) / draws
        paper += short / draws
        kept = kept if draw else (tuple(norms), tuple(gaps))
    return TheoremOne(float(error.norm()), right, paper, *kept, draws)


def _rollout(
    policy: Policy,
    prompt: Sequence[int],
    length: int,
    reward: Reward,
    relaxation: Relaxation,
    table: Tensor,
    detached: bool,
) -> _Rollout:
    with torch.no_grad():
        cache, finals = read(policy, list(prompt))
    final, caches, soft, leaves = finals[-1], [], [], []
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        for t in range(length):
            # A zero is added to each coordinate of x_t, so that h_t's own use of c_t stays out.
            added = [torch.zeros_like(x, requires_grad=True) for pair in cache for x in pair]
            added.append(torch.zeros_like(final, requires_grad=True))
            leaves.append(added)
            cache = [(k + added[2 * i], v + added[2 * i + 1]) for i, (k, v) in enumerate(cache)]
            final = final + added[-1]
            caches.append([(k.detach(), v.detach()) for k, v in cache])
            soft.append(relaxation.soft(logits(policy, final), t))
            if t + 1 < length:
                embedding = soft[-1] @ table
                embedding = embedding.detach() if detached else embedding
                cache, (final,) = advance_embedded(policy, cache, embedding[None])
        value = rewarded(reward, torch.stack(soft))
        flat = torch.autograd.grad(
            value,
            [x for added in leaves for x in added],
            allow_unused=True,
            materialize_grads=True,
        )
    count = len(leaves[0])
    costates = [
        torch.cat([x.flatten() for x in flat[i : i + count]]) for i in range(0, len(flat), count)
    ]
    return _Rollout(caches, [y.detach() for y in soft], costates)


def _chain(
    policy: Policy, found: _Rollout, table: Tensor, temperature: float
) -> tuple[list[float], list[float], float]:
    """‖A_t‖, ε_k, and the first step's ε as the paper's h → h form has it."""
    norms, gaps, short = [], [], 0.0
    width = policy.head.shape[1]
    for t in range(len(found.soft) - 1):
        cache, y = found.caches[t], found.soft[t]
        embedding = y @ table
        by_token = of_function(partial(_made, policy, cache), embedding)
        sampled = spectral_norm(sampling_jacobian(policy, by_token, y, temperature))
        after = found.costates[t + 1]
        gaps.append(sampled * float(after.norm()))
        if t == 0:
            step = of_function(partial(_read_by, policy, cache), embedding)
            bare = spectral_norm(sampling_jacobian(policy, step, y, temperature))
            short = bare * float(after[-width:].norm())
        if t + 2 < len(found.soft):
            # Old keys and values stay as they are: A = [I; N], so ‖A‖² = 1 + ‖N‖².
            norms.append(math.sqrt(1 + spectral_norm(_by_cache(policy, cache, embedding)) ** 2))
    return norms, gaps, short


def _made(policy: Policy, cache: Cache, embeddings: Tensor) -> Tensor:
    """What a step adds to the state: the new keys and values of every layer, and ``"final"``."""
    reached, final = advance_embedded(policy, cache, embeddings)
    new = [x[:, :, -1].flatten(1) for pair in reached for x in pair]
    return torch.cat([*new, final], 1)


def _read_by(policy: Policy, cache: Cache, embeddings: Tensor) -> Tensor:
    return advance_embedded(policy, cache, embeddings)[1]


def _by_cache(policy: Policy, cache: Cache, embedding: Tensor) -> Jacobian:
    """N: from old keys and values to what the next step adds, its token's embedding fixed."""
    shapes = [x.shape[1:] for pair in cache for x in pair]
    sizes = [shape.numel() for shape in shapes]

    def function(rows: Tensor) -> Tensor:
        parts = [
            part.view(-1, *shape)
            for part, shape in zip(torch.split(rows, sizes, 1), shapes, strict=True)
        ]
        copies = list(zip(parts[::2], parts[1::2], strict=True))
        return _made(policy, copies, embedding.expand(len(rows), -1))

    return of_function(function, torch.cat([x.flatten() for pair in cache for x in pair]))
