"""Prefill and decode steps as functions of the cache state, differentiable in all that they read.

c_{t+1} = F(c_t, o_t): the state of Eq. 15 as correction A has it.

B copies · S tokens · D width · H key-value heads · C width of a head
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from valuegrad.model.policy import Policy, logits

# Keys and values (B, H, S, C) of each layer.
Cache = list[tuple[Tensor, Tensor]]


def prefill(policy: Policy, tokens: Sequence[int]) -> tuple[Cache, Float[Tensor, "S D"]]:
    """The cache after tokens read from the start, and their states at ``"final"``."""
    ids = torch.tensor([list(tokens)], device=policy.device)
    reached, states = _run(policy, [], input_ids=ids)
    return reached, states[0]


def decode_step(policy: Policy, cache: Cache, token: int) -> tuple[Cache, Float[Tensor, " D"]]:
    """F: the cache after one more token, and the token's state at ``"final"``."""
    reached, states = _run(policy, cache, input_ids=torch.tensor([[token]], device=policy.device))
    return reached, states[0, 0]


def decode_embedding(
    policy: Policy, cache: Cache, embeddings: Float[Tensor, "B D"]
) -> tuple[Cache, Float[Tensor, "B D"]]:
    """As `decode_step` from embedding vectors in the place of a token, several copies at once."""
    reached, states = decode_embeddings(policy, cache, embeddings[:, None])
    return reached, states[:, 0]


def decode_embeddings(
    policy: Policy, cache: Cache, embeddings: Float[Tensor, "B S D"]
) -> tuple[Cache, Float[Tensor, "B S D"]]:
    """Several steps of `decode_embedding` in one pass, where what they read is known before."""
    copies = len(embeddings)
    spread = [(k.expand(copies, *k.shape[1:]), v.expand(copies, *v.shape[1:])) for k, v in cache]
    return _run(policy, spread, inputs_embeds=embeddings)


@torch.no_grad()
def sampled(
    policy: Policy,
    prompt: Sequence[int],
    most: int,
    generator: torch.Generator,
    stop: frozenset[int] = frozenset(),
) -> list[int]:
    """A completion drawn at temperature 1, of at most ``most`` tokens, its stop token included."""
    drawn: list[int] = []
    cache, finals = prefill(policy, prompt)
    final = finals[-1]
    while True:
        p = logits(policy, final).double().softmax(0).cpu()
        drawn.append(int(torch.multinomial(p, 1, generator=generator)))
        if len(drawn) == most or drawn[-1] in stop:
            return drawn
        cache, final = decode_step(policy, cache, drawn[-1])


def first_positions(cache: Cache, tokens: int) -> Cache:
    """The cache of the first tokens only."""
    return [(keys[:, :, :tokens], values[:, :, :tokens]) for keys, values in cache]


def _run(policy: Policy, state: Cache, **given: Tensor) -> tuple[Cache, Tensor]:
    cache = DynamicCache(config=policy.model.config)
    for layer, (keys, values) in enumerate(state):
        cache.update(keys, values, layer)
    output = policy.model.base_model(**given, past_key_values=cache, use_cache=True)
    return [(layer.keys, layer.values) for layer in cache.layers], output.last_hidden_state
