"""The statements of attention paths: Prop. 3."""

from collections.abc import Iterator

import torch
from torch import Tensor

from valuegrad.credit.attention_paths import attention_paths, weight_correlation
from valuegrad.model.policy import Policy, Site
from valuegrad.model.sites import recorded, shifted
from valuegrad.theory.case import Case
from valuegrad.theory.dense_jacobian import NORM, dense
from valuegrad.theory.statement import Statement, equality, inequality


def attention_statements(case: Case) -> Iterator[Statement]:
    """Prop. 3, with the norm and the effective rank that it leaves open."""
    query = len(case.sequence) - 1
    keys = sorted({query * i // 8 for i in range(8)})
    depth = len(case.policy.blocks)
    layer, layers = depth // 2, sorted({0, depth // 2, depth - 1})
    paths = attention_paths(case.policy, case.sequence, query, keys, layers)
    (path,) = (p for p in paths if (p.layer, p.key) == (layer, keys[-1]))
    matrix = _dense_path(case.policy, case.sequence, layer, keys[-1], query)
    norm = float(torch.linalg.matrix_norm(matrix, 2))
    name, note = "‖∂h_query/∂h_key‖₂ of a block = dense, through the model", f"block {layer}"
    yield equality(name, "Prop. 3", path.norm, norm, NORM, note=note)
    name = "its effective rank ‖·‖_F² / ‖·‖₂² likewise"
    rank = float(matrix.square().sum()) / norm**2
    yield equality(name, "Prop. 3", path.effective_rank, rank, NORM, note=note)
    widest = max(paths, key=lambda path: path.effective_rank)
    each = [weight_correlation([path for path in paths if path.layer == i]) for i in layers]
    name = "effective rank of the attention path ≤ d_head · n_heads"
    note = f"the width is {widest.width}; rank correlation of its norm with the attention "
    note += f"weight {min(each):.2f} to {max(each):.2f} by layer"
    sides = widest.effective_rank, float(widest.rank_bound)
    yield inequality(name, "Prop. 3", *sides, note=note)


def _dense_path(policy: Policy, sequence: list[int], layer: int, key: int, query: int) -> Tensor:
    """∂h_query^(ℓ)/∂h_key^(ℓ−1) with the whole model run, one backward pass a row of it."""
    below: Site = layer - 1 if layer else "embedding"
    ids = torch.tensor([sequence], device=policy.device)

    def through(moved: Tensor) -> Tensor:
        # In this order, since what is recorded at the embedding is a leaf.
        with recorded(policy, [layer]) as states, shifted(policy, below, key, moved):
            policy.model.base_model(input_ids=ids.expand(len(moved), -1), use_cache=False)
        return states[layer][:, query]

    return dense(through, policy.head.new_zeros(policy.head.shape[1]))
