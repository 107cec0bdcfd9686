"""Attention paths between positions against dense Jacobians of the whole network."""

import math

import pytest
import torch
from tests import oracles
from tests.conftest import ARCHITECTURES

from valuegrad.credit.attention_paths import attention_paths, weight_correlation
from valuegrad.errors import UserError

SEQUENCE, QUERY = [5, 9, 33, 7, 41, 260], 4


def dense(model, layer, key):
    """∂h_query^(ℓ)/∂h_key^(ℓ−1), by shifting the input of the block in a run of the whole model."""
    blocks, _ = oracles.blocks_and_norm(model)
    site = "embedding" if layer == 0 else layer - 1
    kept = []

    def keep(module, args, output):
        kept.append(output[0] if isinstance(output, tuple) else output)

    def moved(shift):
        handle = blocks[layer].register_forward_hook(keep)
        try:
            with oracles.shifted(model, {site: shift}, key):
                model(torch.tensor([SEQUENCE]), use_cache=False)
        finally:
            handle.remove()
        return kept.pop()[0, QUERY]

    return torch.autograd.functional.jacobian(moved, torch.zeros(16, dtype=torch.float64))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_norm_and_rank_equal_the_dense_jacobian(policy, architecture):
    chosen = policy(architecture)
    before = chosen.model.config._attn_implementation
    paths = attention_paths(chosen, SEQUENCE, QUERY, [0, 2, 3])
    assert chosen.model.config._attn_implementation == before
    assert [(p.layer, p.key) for p in paths] == [(layer, k) for layer in (0, 1) for k in (0, 2, 3)]
    for path in paths:
        expected = dense(chosen.model, path.layer, path.key)
        norm = float(torch.linalg.matrix_norm(expected, 2))
        assert path.norm == pytest.approx(norm, rel=1e-8)
        assert path.effective_rank == pytest.approx(float(expected.norm()) ** 2 / norm**2, rel=1e-7)
        assert 1 <= path.effective_rank <= min(path.rank_bound, path.width)
        assert path.rank_bound == path.width == 16
        assert 0 < path.weight <= path.largest_weight < 1


def test_weights_sum_to_one_over_the_keys(policy):
    paths = attention_paths(policy("llama"), SEQUENCE, 1, [0])
    whole = attention_paths(policy("llama"), SEQUENCE, QUERY, range(QUERY))
    assert 0 < paths[0].weight < 1
    assert sum(p.weight for p in whole if p.layer == 0) < 1
    assert -1 <= weight_correlation(whole) <= 1
    assert math.isnan(weight_correlation(whole[:3]))


@pytest.mark.parametrize(
    ("query", "keys", "message"),
    [(6, [0], "query: got 6; wanted 0 to 5"), (3, [3], "keys: got 3; wanted 0 to 2")],
)
def test_bad_input(policy, query, keys, message):
    with pytest.raises(UserError, match=message):
        attention_paths(policy("olmo2"), SEQUENCE, query, keys)


def test_some_layers_are_measured_as_all_are(policy):
    whole = attention_paths(policy("olmo2"), SEQUENCE, QUERY, [0, 2])
    some = attention_paths(policy("olmo2"), SEQUENCE, QUERY, [0, 2], [1])
    assert some == [path for path in whole if path.layer == 1]
    with pytest.raises(UserError, match="layers: got 2; wanted 0 to 1"):
        attention_paths(policy("olmo2"), SEQUENCE, QUERY, [0], [2])
