"""The attention path between two positions of one layer (Prop. 3): norm, effective rank, weight.

Prop. 3 bounds the rank of ∂h_i^(ℓ)/∂h_j^(ℓ−1), j < i, by d_head · n_heads, which says nothing where
that is the width. What it carries is its norm and effective rank; how far these follow the
attention weights is measured here.

S tokens · D width
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from valuegrad.credit.jacobians import Jacobian, effective_rank, of_function, spectral_norm
from valuegrad.errors import UserError
from valuegrad.model.policy import Policy
from valuegrad.model.precision import Float64Requests
from valuegrad.model.sites import without_parameter_gradients


@dataclass(frozen=True)
class AttentionPath:
    """How one layer carries credit from a query position back to an earlier key position.

    Attributes:
        layer: the block's number.
        key: position whose vector enters the block.
        query: later position whose vector leaves it.
        weight: attention weight of the query on the key, mean over heads.
        largest_weight: the largest over heads.
        norm: ‖∂h_query/∂h_key‖₂ through the block.
        effective_rank: ‖J‖_F² / ‖J‖₂².
        rank_bound: d_head · n_heads, the bound of Prop. 3 for one layer.
        width: of the hidden vectors.
    """

    layer: int
    key: int
    query: int
    weight: float
    largest_weight: float
    norm: float
    effective_rank: float
    rank_bound: int
    width: int


def attention_paths(
    policy: Policy, sequence: Sequence[int], query: int, keys: Sequence[int]
) -> list[AttentionPath]:
    """Measure the attention path from a query back to earlier positions, in every layer.

    Args:
        policy: the policy.
        sequence: token ids.
        query: position of the later vector.
        keys: positions of the earlier ones, each below `query`.

    Returns:
        One a layer and key, layer by layer.

    Raises:
        UserError: positions outside the sequence or not before the query.

    Example:
        ``attention_paths(policy, [5, 7, 2, 9], 3, [0, 1, 2])[0].norm``
    """
    if not 0 <= query < len(sequence):
        raise UserError("query", str(query), f"0 to {len(sequence) - 1}", "choose a position")
    for key in keys:
        if not 0 <= key < query:
            raise UserError("keys", str(key), f"0 to {query - 1}", "choose earlier positions")
    ids = torch.tensor([list(sequence)], device=policy.device)
    inputs, weights = _block_inputs(policy, ids), _attention_weights(policy, ids)
    config = policy.model.config.get_text_config()
    heads = config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
    found = []
    for layer, (state, rest, named) in enumerate(inputs):
        for key in keys:
            path = _path(policy, layer, state, rest, named, key, query)
            norm = spectral_norm(path)
            on_key = weights[layer][0, :, query, key]
            found.append(
                AttentionPath(
                    layer,
                    key,
                    query,
                    float(on_key.mean()),
                    float(on_key.max()),
                    norm,
                    effective_rank(path, norm=norm),
                    heads * head_width,
                    path.width,
                )
            )
    return found


def weight_correlation(paths: Sequence[AttentionPath]) -> float:
    """Spearman correlation over paths of the norm with the mean attention weight.

    Args:
        paths: of one layer or of all.

    Returns:
        The correlation; NaN for fewer than 4 paths or where one of the two is constant.
    """
    norms, weights = [p.norm for p in paths], [p.weight for p in paths]
    if len(paths) < 4 or len(set(norms)) == 1 or len(set(weights)) == 1:
        return float("nan")
    return float(spearmanr(norms, weights).statistic)


def _path(
    policy: Policy, layer: int, state: Tensor, rest: Any, named: Any, key: int, query: int
) -> Jacobian:
    block = policy.blocks[layer]

    def through(moved: Tensor) -> Tensor:
        whole = state.expand(len(moved), -1, -1).clone()
        whole[:, key] = moved
        # A block called by itself is outside the model's own hooks.
        exact = policy.head.dtype == torch.float64
        with Float64Requests() if exact else nullcontext():
            output = block(whole, *rest, **named)
        reached: Tensor = (output[0] if isinstance(output, tuple) else output)[:, query]
        return reached

    with without_parameter_gradients(policy.model):
        return of_function(through, state[0, key])


@torch.no_grad()
def _block_inputs(policy: Policy, ids: Tensor) -> list[tuple[Tensor, Any, Any]]:
    """What each block is called with."""
    seen: list[tuple[Tensor, Any, Any]] = []

    def keep(module: Any, args: Any, named: Any) -> None:
        seen.append((args[0].detach(), args[1:], named))

    handles = [b.register_forward_pre_hook(keep, with_kwargs=True) for b in policy.blocks]
    try:
        policy.model.base_model(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return seen


@torch.no_grad()
def _attention_weights(policy: Policy, ids: Tensor) -> tuple[Tensor, ...]:
    before = policy.model.config._attn_implementation
    policy.model.set_attn_implementation("eager")
    try:
        output = policy.model.base_model(input_ids=ids, use_cache=False, output_attentions=True)
    finally:
        policy.model.set_attn_implementation(before)
    return tuple(output.attentions)
