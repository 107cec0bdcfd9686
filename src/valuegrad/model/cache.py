"""Decoding one token as a function of the cache state, differentiable in all that it reads.

B copies · S tokens · D width · H key-value heads · C width of a head
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from valuegrad.model.policy import Policy, logits

# Keys and values (B, H, S, C) of each layer.
Cache = list[tuple[Tensor, Tensor]]


def read(policy: Policy, tokens: Sequence[int]) -> tuple[Cache, Float[Tensor, "S D"]]:
    """Read tokens from the start.

    Args:
        policy: the policy.
        tokens: at least one.

    Returns:
        The cache after them, and their states at ``"final"``.
    """
    cache = DynamicCache(config=policy.model.config)
    ids = torch.tensor([list(tokens)], device=policy.device)
    output = policy.model.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
    return [(layer.keys, layer.values) for layer in cache.layers], output.last_hidden_state[0]


def advance(policy: Policy, cache: Cache, token: int) -> tuple[Cache, Float[Tensor, " D"]]:
    """F: the cache and ``"final"`` state after one more token.

    Args:
        policy: the policy.
        cache: of everything before; left as it is.
        token: its id.

    Returns:
        The next cache, and the token's state at ``"final"``.
    """
    reached, final = _run(policy, cache, input_ids=torch.tensor([[token]], device=policy.device))
    return reached, final[0]


def advance_embedded(
    policy: Policy, cache: Cache, embeddings: Float[Tensor, "B D"]
) -> tuple[Cache, Float[Tensor, "B D"]]:
    """As `advance` from embedding vectors in the place of a token, several at once.

    Args:
        policy: the policy.
        cache: of one sequence; every copy starts from it.
        embeddings: e_t of each copy.

    Returns:
        The next cache of each copy, and its state at ``"final"``.
    """
    copies = len(embeddings)
    spread = [tuple(x.expand(copies, *x.shape[1:]) for x in pair) for pair in cache]
    return _run(policy, [(k, v) for k, v in spread], inputs_embeds=embeddings[:, None])


@torch.no_grad()
def sampled(
    policy: Policy,
    prompt: Sequence[int],
    most: int,
    generator: torch.Generator,
    stop: frozenset[int] = frozenset(),
) -> list[int]:
    """Draw a completion from the policy, at temperature 1.

    Args:
        policy: the policy.
        prompt: at least one token.
        most: tokens drawn, unless one that stops comes before.
        generator: of the draws.
        stop: tokens that end the completion, and belong to it.

    Returns:
        The completion, the prompt left out.
    """
    drawn: list[int] = []
    cache, finals = read(policy, prompt)
    final = finals[-1]
    while True:
        p = logits(policy, final).double().softmax(0).cpu()
        drawn.append(int(torch.multinomial(p, 1, generator=generator)))
        if len(drawn) == most or drawn[-1] in stop:
            return drawn
        cache, final = advance(policy, cache, drawn[-1])


def prefix(cache: Cache, tokens: int) -> Cache:
    """The cache of the first tokens only."""
    return [(keys[:, :, :tokens], values[:, :, :tokens]) for keys, values in cache]


def _run(policy: Policy, state: Cache, **given: Tensor) -> tuple[Cache, Tensor]:
    cache = DynamicCache(config=policy.model.config)
    for layer, (keys, values) in enumerate(state):
        cache.update(keys, values, layer)
    output = policy.model.base_model(**given, past_key_values=cache, use_cache=True)
    return [(layer.keys, layer.values) for layer in cache.layers], output.last_hidden_state[:, -1]
