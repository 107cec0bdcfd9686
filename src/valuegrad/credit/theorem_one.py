"""What detaching the token path costs a costate, with two bounds (Thm. 1, Eq. 23, correction H).

As the paper states it Theorem 1 is false: its λ̂ is the empirical GRPO costate, of mean ψ(p, G) ∇V
and not ∇V, so that at T = 1 an empty sum bounds |ψ − 1| ‖∇V‖. What its proof proves, and what is
evaluated here, is about two *pathwise* costates of one relaxed rollout: λ_t by BPTT, and λ̂_t,
attention only, its token path detached. With x_t = (c_t, h_t), A_t the step with its token fixed
and S_t what goes through the token, δ_t = λ̂_t − λ_t = A_tᵀ δ_{t+1} − S_tᵀ λ_{t+1}, so that
‖δ_1‖ ≤ Σ_k (Π_{j<k−1} ‖A_j‖) ε_k, ε_k = ‖S_{k−1}‖ ‖λ_k‖, k = 2 … T: the product form (γ = 1), and
‖δ_1‖ ≤ ‖S_1ᵀ λ_2‖ + Σ_{t>1} ‖∂h_t/∂c_1‖ ‖S_tᵀ λ_{t+1}‖, tokens fixed: by accumulated Jacobians.

T steps · D width · V vocabulary · X size of x_t, keys and values first
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from valuegrad.credit.cache_recursion import flat_cache, paired
from valuegrad.credit.costate_difference import state_costates
from valuegrad.credit.jacobians import of_function, sampling_jacobian, spectral_norm
from valuegrad.credit.relaxed import Relaxed, Reward, gumbel_noise
from valuegrad.errors import UserError
from valuegrad.model.cache import Cache, decode_embedding, decode_embeddings
from valuegrad.model.policy import Policy
from valuegrad.model.sites import without_parameter_gradients


@dataclass(frozen=True, eq=False)
class TheoremOne:
    """The costate error that Theorem 1 is about, and its bounds; made by `theorem_one`.

    Attributes:
        left: ‖E λ̂_1 − E λ_1‖ over the draws, attention-only pathwise costate against BPTT.
        right: the bound in the product form, its mean over the draws.
        paper_right: the same as the paper's h → h form has it, its chain ending after one step.
        accumulated: the bound by accumulated Jacobians, its mean over the draws.
        accumulated_sharp: the same with what reaches h_1 and what reaches c_1 at right angles.
        attention_norms, gaps: ‖A_t‖ of t = 1 … T − 2, ε_k of k = 2 … T, of the first draw.
        accumulated_norms, withheld: ‖∂h_t/∂x_1‖ with the tokens fixed, 1 for t = 1, and
            ‖S_tᵀ λ_{t+1}‖, both of t = 1 … T − 1, of the first draw.
        difference: E λ̂_1 − E λ_1 itself.
        draws: number of rollouts.
    """

    left: float
    right: float
    paper_right: float
    accumulated: float
    accumulated_sharp: float
    attention_norms: tuple[float, ...]
    gaps: tuple[float, ...]
    accumulated_norms: tuple[float, ...]
    withheld: tuple[float, ...]
    difference: Float[Tensor, " X"]
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
    """Hold the attention-only pathwise costate of relaxed rollouts against BPTT and both bounds.

    Not the paper's Theorem 1 (Eq. 23), which is about the empirical GRPO costate and false as it
    stands (correction H): λ̂ here is the derivative of the same relaxed reward with the token path
    detached.

    Args:
        policy: the policy.
        prompt: token ids.
        length: steps T; with one there is nothing to transport and every side is 0.
        reward: R of the soft tokens (T, V), a differentiable scalar.
        temperature: τ, above 0.
        draws: rollouts with Gumbel noise to average over; 1 takes the one without noise.
        seed: of the noise.

    Returns:
        The error and its bounds, in reward units per unit of the state. The error is autograd's
        through the whole rollout; λ apart, the bounds take derivatives of their own.

    Raises:
        UserError: as `relaxed_costates`, or draws below 1.

    Example:
        ``theorem_one(policy, [5, 7], 3, lambda y: y[-1, 3]).accumulated``
    """
    if draws < 1:
        raise UserError("draws", str(draws), "1 or more", "use 1 for a rollout without noise")
    generator = torch.Generator().manual_seed(seed)
    differences, bounds = list[Tensor](), list[tuple[float, float, float, float]]()
    first: list[tuple[float, ...]] = []
    for _ in range(draws):
        noise = gumbel_noise(policy, length, generator) if draws > 1 else None
        given = Relaxed(policy, prompt, length, reward, temperature, noise)
        caches, soft, costates = state_costates(given, detached=False)
        *_, attention = state_costates(given, detached=True)
        differences.append(attention[0] - costates[0])
        with without_parameter_gradients(policy.model):
            norms, gaps, paper = _product_form(given, caches, soft, costates)
            accumulated, withheld = _accumulated(given, caches, soft, costates)
        chains = [math.prod(norms[:k]) * gap for k, gap in enumerate(gaps)]
        parts = [norm * rest for norm, rest in zip(accumulated, withheld, strict=True)]
        # What reaches h_1 comes from the first step alone, what reaches c_1 from all others.
        sharp = math.hypot(sum(parts[:1]), sum(parts[1:]))
        bounds.append((sum(chains), paper, sum(parts), sharp))
        first = first or [tuple(x) for x in (norms, gaps, accumulated, withheld)]
    difference = torch.stack(differences).mean(0)
    right, paper_right, total, sharp = (sum(x) / draws for x in zip(*bounds, strict=True))
    return TheoremOne(
        left=float(difference.norm()),
        right=right,
        paper_right=paper_right,
        accumulated=total,
        accumulated_sharp=sharp,
        attention_norms=first[0],
        gaps=first[1],
        accumulated_norms=first[2],
        withheld=first[3],
        difference=difference,
        draws=draws,
    )


def _product_form(
    given: Relaxed, caches: list[Cache], soft: Tensor, costates: list[Tensor]
) -> tuple[list[float], list[float], float]:
    """‖A_t‖, ε_k, and the first step's ε as the paper's h → h form has it."""
    policy, norms, gaps, short = given.policy, list[float](), list[float](), 0.0
    for t, (cache, y, after) in enumerate(zip(caches, soft, costates[1:], strict=False)):
        e = y @ policy.embedding
        gaps.append(spectral_norm(_sampling_path(given, cache, y)) * float(after.norm()))
        if t == 0:
            step = of_function(lambda x: decode_embedding(policy, caches[0], x)[1], e)
            final = sampling_jacobian(policy, step, y, given.temperature)
            short = spectral_norm(final) * float(after[-len(e) :].norm())
        if t + 2 < given.length:
            # Old keys and values stay as they are: A = [I; N], so ‖A‖² = 1 + ‖N‖².
            made = partial(_made, policy, embeddings=e[None])
            norms.append(math.sqrt(1 + spectral_norm(_by_cache(cache, made)) ** 2))
    return norms, gaps, short


def _accumulated(
    given: Relaxed, caches: list[Cache], soft: Tensor, costates: list[Tensor]
) -> tuple[list[float], list[float]]:
    """‖∂h_t/∂x_1‖ with the tokens fixed, and ‖S_tᵀ λ_{t+1}‖, t = 1 … T − 1."""
    policy, norms, withheld = given.policy, list[float](), list[float]()
    embeddings = soft @ policy.embedding
    for t, (reached, after) in enumerate(zip(caches[1:], costates[1:], strict=True)):

        def final(cache: Cache, read: Tensor = embeddings[None, :t]) -> Tensor:
            return decode_embeddings(policy, cache, read)[1][:, -1]

        # h_1 is a coordinate of x_1 itself, and no later step reads it.
        norms.append(spectral_norm(_by_cache(caches[0], final)) if t else 1.0)
        flat = flat_cache(reached)
        *parts, h = torch.split(after, [*(x.numel() for x in flat), policy.head.shape[1]])
        added = _added(paired([x.view_as(y) for x, y in zip(parts, flat, strict=True)]), h[None])
        path = _sampling_path(given, caches[t], soft[t])
        withheld.append(float(np.linalg.norm(path.H @ added[0].double().cpu().numpy())))
    return norms, withheld


def _sampling_path(given: Relaxed, cache: Cache, y: Tensor) -> LinearOperator:
    """S_t, from h_t to what the step adds to the state; old keys and values do not move."""
    step = of_function(partial(_made, given.policy, cache), y @ given.policy.embedding)
    return sampling_jacobian(given.policy, step, y, given.temperature)


def _made(policy: Policy, cache: Cache, embeddings: Tensor) -> Tensor:
    """What a step adds to the state: the new keys and values of every layer, and ``"final"``."""
    return _added(*decode_embedding(policy, cache, embeddings))


def _added(cache: Cache, final: Tensor) -> Tensor:
    """Of a state, the keys and values of the last position, and ``"final"``."""
    return torch.cat([*(x[:, :, -1].flatten(1) for x in flat_cache(cache)), final], 1)


def _by_cache(cache: Cache, function: Callable[[Cache], Tensor]) -> LinearOperator:
    """The Jacobian by old keys and values of a function of them, one row out."""
    flat = flat_cache(cache)
    sizes = [x.numel() for x in flat]

    def of_row(row: Tensor) -> Tensor:
        split = zip(torch.split(row, sizes, 1), flat, strict=True)
        return function(paired([part.view_as(x) for part, x in split]))

    return of_function(of_row, torch.cat([x.flatten() for x in flat]))
