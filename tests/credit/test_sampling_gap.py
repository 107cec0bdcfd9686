"""The sampling gap against its dense matrix, and below each of its bounds."""

import math

import pytest
import torch
from tests.conftest import ARCHITECTURES
from tests.credit.test_jacobians import SEQUENCE, dense_sampling, dense_step

from valuegrad.credit.bounds import bounds
from valuegrad.credit.sampling_gap import sampling_gap, sampling_gaps, table_norms
from valuegrad.errors import UserError


@pytest.mark.parametrize("temperature", [1.0, 0.4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_gap_is_the_dense_matrix_s_and_below_its_bounds(policy, architecture, temperature):
    chosen, position = policy(architecture), 4
    found = sampling_gap(chosen, SEQUENCE, position, temperature)
    expected, p = dense_sampling(chosen, position, temperature)
    assert found.gap == pytest.approx(float(torch.linalg.matrix_norm(expected, 2)), rel=1e-8)
    step_norm = float(torch.linalg.matrix_norm(dense_step(chosen.model, position), 2))
    assert found.step_norm == pytest.approx(step_norm, rel=1e-8)
    assert found.gap <= found.bound_spectral <= found.bound_trace <= found.bound_maximum
    assert found.bound_maximum <= found.bound_paper * (1 + 1e-12)
    assert found.gap <= found.bound_linear <= found.bound_paper
    table = chosen.model.get_input_embeddings().weight.detach()[: len(chosen.head)]
    norms = [float(torch.linalg.matrix_norm(x, 2)) for x in (table, chosen.head)]
    size = step_norm * math.prod(norms) / temperature
    assert found.product_norm == pytest.approx(size, rel=1e-8)
    for name, factor in vars(bounds(p)).items():
        assert getattr(found, f"bound_{name}") == pytest.approx(size * factor.item(), rel=1e-7)
    ratio = found.entropy / math.log(len(p))
    assert found.smallest_constant == pytest.approx(found.gap / math.sqrt(ratio), rel=1e-10)


def test_positions_together_equal_one_at_a_time(policy):
    chosen = policy("olmo2")
    together = sampling_gaps(chosen, SEQUENCE, [0, 3, -2], norms=table_norms(chosen))
    alone = [sampling_gap(chosen, SEQUENCE, position) for position in (0, 3, 6)]
    for one, other in zip(together, alone, strict=True):
        assert one.position == other.position
        assert one.gap == pytest.approx(other.gap, rel=1e-10)


def test_a_certain_policy_has_no_gap_and_no_smallest_constant(policy):
    found = sampling_gap(policy("olmo2"), SEQUENCE, 4, temperature=1e-6)
    assert (found.entropy, found.gap, found.bound_linear) == (0, 0, 0)
    assert math.isnan(found.smallest_constant)


@pytest.mark.parametrize("architecture", ["olmo2", "gpt2"])
def test_table_norms(policy, architecture):
    chosen = policy(architecture)
    table = chosen.model.get_input_embeddings().weight.detach()
    for norm, matrix in zip(table_norms(chosen), (table, chosen.head), strict=True):
        assert norm == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-10)


@pytest.mark.parametrize(
    ("position", "temperature", "message"),
    [
        (7, 1.0, r"position: got 7 in 8 tokens; wanted 0 to 6"),
        (-1, 1.0, r"position: got -1 in 8 tokens"),
        (0, 0.0, "temperature: got 0.0; wanted a number above 0"),
        (0, float("nan"), "temperature: got nan"),
    ],
)
def test_bad_input(policy, position, temperature, message):
    with pytest.raises(UserError, match=message):
        sampling_gap(policy("olmo2"), SEQUENCE, position, temperature)


def test_a_sequence_beyond_the_context(policy):
    with pytest.raises(UserError, match="sequence: got 50 tokens; wanted at most 48"):
        sampling_gap(policy("olmo2"), [1] * 50, 0)
