"""The adjoint recursion over the cache state (Eq. 15, correction A), equal to autograd.

What crosses a decode step is the cache c_t, keys and values of all layers up to the position of
h_t, with h_t itself. With c_{t+1} = F(c_t, o_t): λ_t = Â_t ∂ℓ_t/∂c_t + (∂c_{t+1}/∂c_t)ᵀ λ_{t+1},
where ℓ_t reads h_t alone. h_t feeds no later step: the paper's ∂h_{t+1}/∂h_t is zero.

T completion tokens · D width
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.credit.completions import Completions, completions
from valuegrad.credit.costates import costates, final_costates
from valuegrad.model.cache import Cache, decode_step, first_positions, prefill
from valuegrad.model.policy import Policy, Site, logits
from valuegrad.model.sites import recorded, without_parameter_gradients

Advantages = Float[Tensor, " T"] | Sequence[float]


@dataclass(frozen=True, eq=False)
class CacheCostates:
    """Costates of the cache state of one completion; made by `cache_costates`."""

    final: Float[Tensor, "T D"]  # of h_t at "final", t = 1 … T
    embedding: Float[Tensor, "U D"]  # of the input of block 0 that reads o_{t−1}, t = 2 … T
    cache: Cache  # of keys and values (heads, positions, head width) of each layer in c_1


def cache_costates(
    policy: Policy, sequence: Sequence[int], prompt_length: int, advantages: Advantages
) -> CacheCostates:
    """Costates by the recursion over the cache state, one decode step at a time (Eq. 15).

    Args:
        policy: the policy.
        sequence: prompt and completion.
        prompt_length: tokens of the prompt.
        advantages: Â of each completion token.

    Returns:
        Costates in advantage units per unit of the state: `final` (T, D), `embedding` (T − 1, D)
        and, of keys and values of each layer after the prompt, `cache`.

    Raises:
        UserError: as `costates`.

    Example:
        ``cache_costates(policy, [5, 7, 2, 9], 2, [1.0, 1.0]).cache[0]``
    """
    signal = torch.as_tensor(advantages, dtype=policy.head.dtype)[None]
    batch = completions(policy, [list(sequence)], prompt_length, signal)
    with without_parameter_gradients(policy.model):
        with torch.no_grad():
            cache, read_finals = prefill(policy, sequence[:-1])
        finals = read_finals[prompt_length - 1 :]
        actions = torch.tensor(sequence[prompt_length:], device=policy.device)
        immediate, _ = final_costates(policy, finals, actions, batch.advantages[0])
        adjoint: Cache = [(torch.zeros_like(k), torch.zeros_like(v)) for k, v in cache]
        embedding = torch.empty_like(immediate[1:])
        for t in range(len(actions) - 1, 0, -1):
            before, token = first_positions(cache, prompt_length + t - 1), int(actions[t - 1])
            adjoint, embedding[t - 1] = _step_back(policy, before, token, adjoint, immediate[t])
    return CacheCostates(immediate, embedding, [(k[0], v[0]) for k, v in adjoint])


def unrolled_costates(policy: Policy, batch: Completions) -> Cache:
    """The costates of c_1 by autograd through the whole unrolled decoding: the oracle."""
    (tokens,), (start,) = batch.tokens, batch.prompt_lengths
    with torch.no_grad():
        cache, finals = prefill(policy, tokens[:start])
    flat = [x.detach().requires_grad_() for x in flat_cache(cache)]
    cache, final = paired(flat), finals[-1]
    objective = final.new_zeros(())
    with without_parameter_gradients(policy.model), torch.enable_grad():
        for t, token in enumerate(tokens[start:]):
            if t:
                cache, final = decode_step(policy, cache, tokens[start + t - 1])
            log_p = logits(policy, final).log_softmax(0)
            objective = objective + batch.advantages[0, t] * log_p[token]
        found = torch.autograd.grad(objective, flat, allow_unused=True, materialize_grads=True)
    return paired([x[0] for x in found])


def one_step_costates(
    policy: Policy, sequence: Sequence[int], prompt_length: int, advantages: Advantages, site: Site
) -> tuple[Float[Tensor, "T D"], Float[Tensor, "T D"]]:
    """The paper's Eq. 15 at one site beside what autograd gives there.

    Its Jacobian between hidden vectors of one layer is zero at every layer: the vector at t + 1 is
    made from *lower* layers at t. So its recursion ends at the immediate term, pulled down to the
    site through the own position.

    Args:
        policy: the policy.
        sequence: prompt and completion.
        prompt_length: tokens of the prompt.
        advantages: Â of each completion token.
        site: where.

    Returns:
        Eq. 15's costates and the true ones, in advantage units per unit of the state.

    Raises:
        UserError: as `costates`.

    Example:
        ``paper, true = one_step_costates(policy, [5, 7, 2, 9], 2, [1.0, 1.0], 0)``
    """
    signal = torch.as_tensor(advantages, dtype=policy.head.dtype)[None]
    found = costates(policy, [list(sequence)], prompt_length, signal, site)
    assert found.immediate is not None
    return found.immediate[0], found.total[0]


def _step_back(
    policy: Policy, state: Cache, token: int, adjoint: Cache, final_adjoint: Tensor
) -> tuple[Cache, Tensor]:
    """One step of the recursion: the cotangents of c_{t+1} carried to c_t, and to the token."""
    leaves = [x.detach().requires_grad_() for x in flat_cache(state)]
    with recorded(policy, ["embedding"]) as states:
        reached, final = decode_step(policy, paired(leaves), token)
    outputs = [final, *flat_cache(reached)]
    cotangents = [final_adjoint, *flat_cache(adjoint)]
    *back, embedding = torch.autograd.grad(outputs, [*leaves, states["embedding"]], cotangents)
    return paired(back), embedding[0, 0]


def flat_cache(cache: Cache) -> list[Tensor]:
    """Keys and values of the layers in turn."""
    return [x for pair in cache for x in pair]


def paired(flat: Sequence[Tensor]) -> Cache:
    """The cache of keys and values in turn."""
    return list(zip(flat[::2], flat[1::2], strict=True))
