"""The adjoint recursion over the cache state (Eq. 15, correction A), equal to autograd.

What crosses a step of decoding is the cache c_t: keys and values of all layers at all positions up
to that of h_t, together with h_t at ``"final"``. With c_{t+1} = F(c_t, o_t)

    λ_t = Â_t ∂ℓ_t/∂c_t + (∂c_{t+1}/∂c_t)ᵀ λ_{t+1}

where ℓ_t reads h_t alone. h_t itself feeds no later step: the paper's ∂h_{t+1}/∂h_t is zero, and
with it Eq. 15 stops at the immediate term.

T completion tokens · D width
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.credit.completions import Completions, completions
from valuegrad.credit.costates import costates_at, final_costates
from valuegrad.model.cache import Cache, advance, read
from valuegrad.model.policy import Policy, Site
from valuegrad.model.sites import recorded, without_parameter_gradients


@dataclass(frozen=True, eq=False)
class CacheCostates:
    """Costates of the cache state of one completion; made by `cache_costates`.

    Attributes:
        final: of h_t at ``"final"``, t = 1 … T.
        embedding: of the input of block 0 at the position of h_t, t = 2 … T: what the step that
            made c_t hands to the token o_{t−1}.
        cache: of keys and values (heads, positions, head width) of each layer in c_1, the state
            after the prompt.
    """

    final: Float[Tensor, "T D"]
    embedding: Float[Tensor, "U D"]
    cache: Cache


def cache_costates(
    policy: Policy,
    sequence: Sequence[int],
    prompt_length: int,
    advantages: Float[Tensor, " T"] | Sequence[float],
) -> CacheCostates:
    """Costates by the recursion over the cache state, one decoding step at a time.

    Args:
        policy: the policy.
        sequence: prompt and completion.
        prompt_length: tokens of the prompt.
        advantages: Â of each completion token.

    Returns:
        The costates.

    Raises:
        UserError: as `costates`.

    Example:
        ``cache_costates(policy, [5, 7, 2, 9], 2, [1.0, 1.0]).cache[0]``
    """
    batch = _one(policy, sequence, prompt_length, advantages)
    with without_parameter_gradients(policy.model):
        steps, finals = _decode(policy, batch)
        actions = torch.tensor(sequence[prompt_length:], device=policy.device)
        immediate, _ = final_costates(policy, finals, actions, batch.advantages[0])
        adjoint: Cache = [(torch.zeros_like(k), torch.zeros_like(v)) for k, v in steps[-1]]
        embeddings: list[Tensor] = []
        for t in range(len(actions) - 1, 0, -1):
            adjoint, embedding = _step_back(
                policy, steps[t - 1], int(actions[t - 1]), adjoint, immediate[t]
            )
            embeddings.insert(0, embedding)
    width = immediate.shape[1]
    stacked = torch.stack(embeddings) if embeddings else immediate.new_empty(0, width)
    return CacheCostates(immediate, stacked, [(k[0], v[0]) for k, v in adjoint])


def unrolled_costates(
    policy: Policy,
    sequence: Sequence[int],
    prompt_length: int,
    advantages: Float[Tensor, " T"] | Sequence[float],
) -> Cache:
    """The costates of c_1 by autograd through the whole unrolled decoding: the recursion's oracle.

    Args:
        policy: the policy.
        sequence: prompt and completion.
        prompt_length: tokens of the prompt.
        advantages: Â of each completion token.

    Returns:
        Costates of keys and values of each layer after the prompt.

    Raises:
        UserError: as `costates`.

    Example:
        ``unrolled_costates(policy, [5, 7, 2, 9], 2, [1.0, 1.0])[0]``
    """
    batch = _one(policy, sequence, prompt_length, advantages)
    with without_parameter_gradients(policy.model):
        with torch.no_grad():
            start, finals = read(policy, sequence[:prompt_length])
        leaves = [(k.detach().requires_grad_(), v.detach().requires_grad_()) for k, v in start]
        with torch.enable_grad():
            cache, final = leaves, finals[-1]
            objective = final.new_zeros(())
            for t, token in enumerate(sequence[prompt_length:]):
                if t:
                    cache, final = advance(policy, cache, sequence[prompt_length + t - 1])
                head = policy.model.get_output_embeddings()
                objective = objective + batch.advantages[0, t] * head(final).log_softmax(0)[token]
        flat = torch.autograd.grad(
            objective,
            [x for pair in leaves for x in pair],
            allow_unused=True,
            materialize_grads=True,
        )
    return [(flat[i][0], flat[i + 1][0]) for i in range(0, len(flat), 2)]


def one_step_costates(
    policy: Policy,
    sequence: Sequence[int],
    prompt_length: int,
    advantages: Float[Tensor, " T"] | Sequence[float],
    site: Site,
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
        Eq. 15's costates and the true ones.

    Raises:
        UserError: as `costates`.

    Example:
        ``paper, true = one_step_costates(policy, [5, 7, 2, 9], 2, [1.0, 1.0], 0)``
    """
    found = costates_at(policy, _one(policy, sequence, prompt_length, advantages), (site,))
    (at_site,) = found.values()
    assert at_site.immediate is not None
    return at_site.immediate[0], at_site.total[0]


def _one(
    policy: Policy,
    sequence: Sequence[int],
    prompt_length: int,
    advantages: Float[Tensor, " T"] | Sequence[float],
) -> Completions:
    signal = torch.as_tensor(advantages, dtype=policy.head.dtype)[None]
    return completions(policy, [list(sequence)], prompt_length, signal)


@torch.no_grad()
def _decode(policy: Policy, batch: Completions) -> tuple[list[Cache], Float[Tensor, "T D"]]:
    """The states c_1 … c_T along a completion."""
    (tokens,), (start,) = batch.tokens, batch.prompt_lengths
    state, read_finals = read(policy, tokens[:start])
    steps, finals = [state], [read_finals[-1]]
    for token in tokens[start:-1]:
        state, final = advance(policy, steps[-1], token)
        steps.append(state)
        finals.append(final)
    return steps, torch.stack(finals)


def _step_back(
    policy: Policy, state: Cache, token: int, adjoint: Cache, final_adjoint: Tensor
) -> tuple[Cache, Tensor]:
    """One step of the recursion: the cotangents of c_{t+1} carried to c_t, and to the token."""
    leaves = [x.detach().requires_grad_() for pair in state for x in pair]
    pairs = list(zip(leaves[::2], leaves[1::2], strict=True))
    with recorded(policy, ["embedding"]) as states:
        reached, final = advance(policy, pairs, token)
    outputs = [final, *(x for pair in reached for x in pair)]
    cotangents = [final_adjoint, *(x for pair in adjoint for x in pair)]
    *back, embedding = torch.autograd.grad(outputs, [*leaves, states["embedding"]], cotangents)
    return list(zip(back[::2], back[1::2], strict=True)), embedding[0, 0]
