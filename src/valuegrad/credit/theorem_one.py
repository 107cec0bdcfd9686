"""Theorem 1 over the cache state: what sampling costs the costate, and the bound on it (Eq. 23).

x_t = (c_t, h_t) crosses a step, by attention A_t with the soft token e_t fixed, and by sampling,
S_t = (∂x_{t+1}/∂e_t) Eᵀ (1/τ)(diag y − yyᵀ) W. BPTT follows both, λ_t = ∂R/∂x_t + (A_t + S_t)ᵀ
λ_{t+1}, and λ̂_t the first alone: λ̂_t − λ_t = A_tᵀ (λ̂_{t+1} − λ_{t+1}) − S_tᵀ λ_{t+1}. With γ = 1
‖λ̂_1 − λ_1‖ ≤ Σ_{k>1} (Π_{j<k−1} ‖A_j‖) ε_k,  ε_k = ‖S_{k−1}‖ ‖λ_k‖.

T steps · D width · V vocabulary
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from valuegrad.credit.cache_recursion import flat_cache, paired
from valuegrad.credit.jacobians import of_function, sampling_jacobian, spectral_norm
from valuegrad.credit.relaxed import Relaxed, Reward, gumbel_noise, roll_out
from valuegrad.errors import UserError
from valuegrad.model.cache import Cache, decode_embedding
from valuegrad.model.policy import Policy
from valuegrad.model.sites import without_parameter_gradients


@dataclass(frozen=True)
class TheoremOne:
    """Both sides of Theorem 1 at the first step of a rollout; made by `theorem_one`.

    Attributes:
        left: ‖E λ̂_1 − E λ_1‖ over the draws.
        right: the bound, its mean over the draws.
        paper_right: the bound as the paper's h → h form has it, its chain ending after one step.
        attention_norms, gaps: ‖A_t‖ of t = 1 … T − 2, ε_k of k = 2 … T, of the first draw.
        draws: number of rollouts.
    """

    left: float
    right: float
    paper_right: float
    attention_norms: tuple[float, ...]
    gaps: tuple[float, ...]
    draws: int


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
    """Evaluate both sides of Theorem 1 (Eq. 23) for relaxed rollouts from one prompt.

    Args:
        policy: the policy.
        prompt: token ids.
        length: steps T; with one there is nothing to transport and both sides are 0.
        reward: R of the soft tokens (T, V), a differentiable scalar.
        temperature: τ, above 0.
        draws: rollouts with Gumbel noise to average over; 1 takes the one without noise.
        seed: of the noise.

    Returns:
        Both sides, in reward units per unit of the state. The left one is autograd's alone, the
        right one never sees it.

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
        given = Relaxed(policy, prompt, length, reward, temperature, noise)
        caches, soft, costates = _rollout(given, detached=False)
        *_, attention = _rollout(given, detached=True)
        with without_parameter_gradients(policy.model):
            norms, gaps, short = _chain(given, caches, soft, costates)
        error = error.to(soft) + (attention[0] - costates[0]) / draws
        right += sum(math.prod(norms[:k]) * gap for k, gap in enumerate(gaps)) / draws
        paper += short / draws
        kept = kept if draw else (tuple(norms), tuple(gaps))
    return TheoremOne(float(error.norm()), right, paper, *kept, draws)


def _rollout(given: Relaxed, *, detached: bool) -> tuple[list[Cache], Tensor, list[Tensor]]:
    """The caches c_t, the soft tokens, and ∂R/∂x_t of each step, flat: cache first, then h."""
    caches: list[Cache] = []
    leaves: list[list[Tensor]] = []

    def after(cache: Cache, h: Tensor) -> tuple[Cache, Tensor]:
        # A zero is added to each coordinate of x_t, so that h_t's own use of c_t stays out.
        caches.append([(k.detach(), v.detach()) for k, v in cache])
        state = [*flat_cache(cache), h]
        leaves.append([torch.zeros_like(x, requires_grad=True) for x in state])
        *moved, h = (x + zero for x, zero in zip(state, leaves[-1], strict=True))
        return paired(moved), h

    soft, value = roll_out(given, detached=detached, after=after)
    zeros = [x for added in leaves for x in added]
    found = iter(torch.autograd.grad(value, zeros, allow_unused=True, materialize_grads=True))
    costates = [torch.cat([next(found).flatten() for _ in added]) for added in leaves]
    return caches, soft.detach(), costates


def _chain(
    given: Relaxed, caches: list[Cache], soft: Tensor, costates: list[Tensor]
) -> tuple[list[float], list[float], float]:
    """‖A_t‖, ε_k, and the first step's ε as the paper's h → h form has it."""
    policy, norms, gaps, short = given.policy, list[float](), list[float](), 0.0

    def withheld(by_token: LinearOperator, y: Tensor, after: Tensor) -> float:
        sampled = sampling_jacobian(policy, by_token, y, given.temperature)
        return spectral_norm(sampled) * float(after.norm())

    for t, (cache, y, after) in enumerate(zip(caches, soft, costates[1:], strict=False)):
        e = y @ policy.embedding
        gaps.append(withheld(of_function(partial(_made, policy, cache), e), y, after))
        if t == 0:
            final = of_function(lambda x: decode_embedding(policy, caches[0], x)[1], e)
            short = withheld(final, y, after[-len(e) :])
        if t + 2 < given.length:
            # Old keys and values stay as they are: A = [I; N], so ‖A‖² = 1 + ‖N‖².
            norms.append(math.sqrt(1 + spectral_norm(_by_cache(policy, cache, e)) ** 2))
    return norms, gaps, short


def _made(policy: Policy, cache: Cache, embeddings: Tensor) -> Tensor:
    """What a step adds to the state: the new keys and values of every layer, and ``"final"``."""
    reached, final = decode_embedding(policy, cache, embeddings)
    return torch.cat([*(x[:, :, -1].flatten(1) for x in flat_cache(reached)), final], 1)


def _by_cache(policy: Policy, cache: Cache, embedding: Tensor) -> LinearOperator:
    """N: from old keys and values to what the next step adds, its token's embedding fixed."""
    flat = flat_cache(cache)
    sizes = [x.numel() for x in flat]

    def function(rows: Tensor) -> Tensor:
        split = zip(torch.split(rows, sizes, 1), flat, strict=True)
        copies = paired([part.view(-1, *x.shape[1:]) for part, x in split])
        return _made(policy, copies, embedding.expand(len(rows), -1))

    return of_function(function, torch.cat([x.flatten() for x in flat]))
