"""The attention path between two positions of one layer (Prop. 3): norm, effective rank, weight.

Prop. 3 bounds the rank of ∂h_i^(ℓ)/∂h_j^(ℓ−1), j < i, by d_head · n_heads, which says nothing where
that is the width. What it carries is its norm and effective rank; how far these follow the
attention weights is measured here.
"""

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from scipy.sparse.linalg import LinearOperator
from scipy.stats import spearmanr
from torch import Tensor

from valuegrad.credit.jacobians import effective_rank, of_function, spectral_norm
from valuegrad.errors import UserError
from valuegrad.model.policy import Policy
from valuegrad.model.precision import Float64Requests
from valuegrad.model.sites import without_parameter_gradients


@dataclass(frozen=True)
class AttentionPath:
    """How one layer carries credit from a query position back to an earlier key position."""

    layer: int
    key: int
    query: int
    weight: float  # attention weight of the query on the key, mean over heads
    largest_weight: float
    norm: float  # ‖∂h_query/∂h_key‖₂ through the block
    effective_rank: float  # ‖J‖_F² / ‖J‖₂²
    rank_bound: int  # d_head · n_heads, the bound of Prop. 3 for one layer
    width: int


def attention_paths(
    policy: Policy,
    sequence: Sequence[int],
    query: int,
    keys: Sequence[int],
    layers: Sequence[int] | None = None,
) -> list[AttentionPath]:
    """Measure the attention path from a query back to earlier positions, layer by layer (Prop. 3).

    Args:
        policy: the policy.
        sequence: token ids.
        query: position of the later vector.
        keys: positions of the earlier ones, each below `query`.
        layers: which; left out, all of them.

    Returns:
        One a layer and key, layer by layer: norm (state / state), effective rank and its bound,
        and the attention weight, mean and largest over heads.

    Raises:
        UserError: positions outside the sequence or not before the query, no such layer.

    Example:
        ``attention_paths(policy, [5, 7, 2, 9], 3, [0, 1, 2])[0].norm``
    """
    if not 0 <= query < len(sequence):
        raise UserError("query", str(query), f"0 to {len(sequence) - 1}", "choose a position")
    for key in keys:
        if not 0 <= key < query:
            raise UserError("keys", str(key), f"0 to {query - 1}", "choose earlier positions")
    chosen = range(len(policy.blocks)) if layers is None else layers
    for layer in chosen:
        if not 0 <= layer < len(policy.blocks):
            raise UserError("layers", str(layer), f"0 to {len(policy.blocks) - 1}", "choose others")
    inputs, weights = _read(policy, sequence)
    config = policy.model.config.get_text_config()
    heads = config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
    found = []
    for layer in chosen:
        for key in keys:
            path = _path(policy, layer, inputs[layer], key, query)
            norm, on_key = spectral_norm(path), weights[layer][0, :, query, key]
            found.append(
                AttentionPath(
                    layer=layer,
                    key=key,
                    query=query,
                    weight=float(on_key.mean()),
                    largest_weight=float(on_key.max()),
                    norm=norm,
                    effective_rank=effective_rank(path, norm=norm),
                    rank_bound=heads * head_width,
                    width=path.shape[1],
                )
            )
    return found


def weight_correlation(paths: Sequence[AttentionPath]) -> float:
    """Spearman correlation of norm and mean weight; NaN below 4 paths or where one is constant."""
    norms, weights = [p.norm for p in paths], [p.weight for p in paths]
    if len(paths) < 4 or len(set(norms)) == 1 or len(set(weights)) == 1:
        return float("nan")
    return float(spearmanr(norms, weights).statistic)


def _path(
    policy: Policy, layer: int, given: tuple[Tensor, Any, Any], key: int, query: int
) -> LinearOperator:
    block, (state, rest, named) = policy.blocks[layer], given

    def through(moved: Tensor) -> Any:
        whole = state.expand(len(moved), -1, -1).clone()
        whole[:, key] = moved
        # A block called by itself is outside the model's own hooks.
        exact = policy.head.dtype == torch.float64
        with Float64Requests() if exact else nullcontext():
            output = block(whole, *rest, **named)
        return (output[0] if isinstance(output, tuple) else output)[:, query]

    with without_parameter_gradients(policy.model):
        return of_function(through, state[0, key])


@torch.no_grad()
def _read(
    policy: Policy, sequence: Sequence[int]
) -> tuple[list[tuple[Tensor, Any, Any]], tuple[Tensor, ...]]:
    """What each block is called with, state first, and the attention weights (1, heads, S, S)."""
    inputs: list[tuple[Tensor, Any, Any]] = []

    def keep(module: Any, args: Any, named: Any) -> None:
        inputs.append((args[0].detach(), args[1:], named))

    model, ids = policy.model, torch.tensor([list(sequence)], device=policy.device)
    with ExitStack() as stack:
        for block in policy.blocks:
            stack.callback(block.register_forward_pre_hook(keep, with_kwargs=True).remove)
        stack.callback(model.set_attn_implementation, model.config._attn_implementation)
        model.set_attn_implementation("eager")
        output = model.base_model(input_ids=ids, use_cache=False, output_attentions=True)
    return inputs, output.attentions
