"""Attention that carries gradient through the own position only (Def. 2, correction A).

Values are those of scaled dot-product attention, bit for bit; keys and values of other positions
carry no gradient, the own position's do. A backward pass through a model that runs it gives every
position the derivative of its own output alone: the *immediate* costates of a whole sequence at
once.

With out_t = Σ_j w_tj v_j and w = softmax(scale q kᵀ), a cotangent g_t reaches the own key and value
as ∂/∂v_t = w_tt g_t and ∂/∂k_t = w_tt scale (g_t · (v_t − out_t)) q_t, and the query as always.

B sequences · H heads · S positions · C width of a head
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from valuegrad.errors import UserError
from valuegrad.model.batches import SCORE_ELEMENTS
from valuegrad.model.policy import Policy

NAME = "valuegrad_own_position"


@contextmanager
def own_position_attention(policy: Policy) -> Iterator[None]:
    """While open, the policy's attention carries gradient through the own position only."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    config = policy.model.config
    before = config._attn_implementation
    try:
        try:
            policy.model.set_attn_implementation(NAME)
        except ValueError as error:
            got = f"a {type(policy.model).__name__} with an attention of its own"
            wanted = (
                "an architecture that takes its attention from transformers' AttentionInterface"
            )
            fix = "ask for total costates only"
            raise UserError(policy.checkpoint.name, got, wanted, fix) from error
        yield
    finally:
        policy.model.set_attn_implementation(before)


def _attention(
    module: nn.Module,
    query: Float[Tensor, "B H S C"],
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[Float[Tensor, "B S H C"], None]:
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    fixed_key, fixed_value = key.detach(), value.detach()
    causal = attention_mask is None and query.shape[2] > 1
    output = nn.functional.scaled_dot_product_attention(
        query, fixed_key, fixed_value, attention_mask, is_causal=causal, scale=scale
    )
    own = _own_weights(query.detach(), fixed_key, attention_mask, scale)
    # Both differences are exactly 0: they add a gradient and no value.
    score = scale * (query.detach() * (key - fixed_key)).sum(-1, keepdim=True)
    output = output + own * (value - fixed_value + score * (fixed_value - output.detach()))
    return output.transpose(1, 2).contiguous(), None


@torch.no_grad()
def _own_weights(
    query: Tensor, key: Tensor, mask: Bool[Tensor, "B 1 S S"] | Tensor | None, scale: float
) -> Float[Tensor, "B H S 1"]:
    """The weight w_tt of each position on itself, a few rows of scores at a time."""
    batch, heads, length, _ = query.shape
    step = max(1, SCORE_ELEMENTS // (batch * heads * length))
    own = query.new_empty(batch, heads, length, 1)
    if mask is None:
        mask = query.new_ones(1, 1, length, length, dtype=torch.bool).tril_()
    for start in range(0, length, step):
        stop = min(start + step, length)
        # Causal in any case, so later keys need no scores.
        scores = scale * query[:, :, start:stop] @ key[:, :, :stop].mT
        seen = mask[:, :, start:stop, :stop]
        if seen.dtype == torch.bool:
            scores.masked_fill_(~seen, -torch.inf)
        else:
            scores += seen
        weights = scores.softmax(-1)
        own[:, :, start:stop, 0] = weights.diagonal(start, dim1=2, dim2=3)
    return own
