"""The bounds by covariances against dense matrices, and each below the next."""

import math

import pytest
import torch
from tests.conftest import ARCHITECTURES
from tests.credit.test_jacobians import SEQUENCE, dense_sampling, dense_step

from valuegrad.credit import covariance_bounds as module
from valuegrad.credit.covariance_bounds import table_diameters
from valuegrad.credit.sampling_gap import LINKS, sampling_gap


def covariance(table, p):
    mean = p @ table
    return (table * p[:, None]).T @ table - torch.outer(mean, mean)


@pytest.mark.parametrize("temperature", [1.0, 0.4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_bound_is_the_dense_one(policy, architecture, temperature):
    chosen, position = policy(architecture), 4
    found = sampling_gap(chosen, SEQUENCE, position, temperature)
    _, p = dense_sampling(chosen, position, temperature)
    step = dense_step(chosen.model, position)
    table = chosen.model.get_input_embeddings().weight.detach()[: len(p)]
    by_table, by_head = covariance(table, p), covariance(chosen.head.detach(), p)
    largest = [torch.linalg.eigvalsh(x)[-1] for x in (by_table, by_head)]
    carried = torch.linalg.eigvalsh(step @ by_table @ step.T)[-1]
    expected = math.sqrt(float(carried * largest[1])) / temperature
    assert found.bound_covariance == pytest.approx(expected, rel=1e-6)
    norm = float(torch.linalg.matrix_norm(step, 2))
    expected = norm * math.sqrt(float(largest[0] * largest[1])) / temperature
    assert found.bound_covariance_norms == pytest.approx(expected, rel=1e-6)
    across = [float(torch.cdist(x, x).max()) for x in (table, chosen.head.detach())]
    half = norm * math.prod(across) / (2 * temperature)
    assert found.bound_diameter == pytest.approx(half * float(1 - p @ p), rel=1e-6)
    expected = half * min(1.0, found.entropy)
    assert found.bound_diameter_entropy == pytest.approx(expected, rel=1e-6)
    for low, high in LINKS:
        assert getattr(found, low) <= getattr(found, high) * (1 + 1e-9), (low, high)
    # What norms taken apart lose is not lost here.
    assert found.bound_covariance < 5 * found.gap < found.bound_linear


def test_a_certain_policy_has_no_bound_by_covariances(policy):
    found = sampling_gap(policy("olmo2"), SEQUENCE, 4, temperature=1e-6)
    assert found.bound_covariance == found.bound_covariance_norms == found.bound_diameter == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_diameters_in_pieces_and_as_twice_the_radius(policy, monkeypatch, dtype):
    chosen = policy("llama", dtype)
    whole = table_diameters(chosen)
    for found, table in zip(whole, (chosen.embedding, chosen.head), strict=True):
        wide = table.detach().double()
        assert found == pytest.approx(float(torch.cdist(wide, wide).max()), rel=1e-6)
    monkeypatch.setattr(module, "ROWS", 7)
    assert table_diameters(chosen) == pytest.approx(whole, rel=1e-12)
    monkeypatch.setattr(module, "PAIRS", 0)
    for bound, exact in zip(table_diameters(chosen), whole, strict=True):
        assert exact <= bound <= 2 * exact


@pytest.mark.parametrize(("architecture", "temperature"), [("llama", 0.1), ("gpt2", 0.02)])
def test_float32_keeps_the_digits_of_a_policy_that_is_nearly_certain(
    policy, architecture, temperature
):
    exact = sampling_gap(policy(architecture), SEQUENCE, 4, temperature)
    found = sampling_gap(policy(architecture, "float32"), SEQUENCE, 4, temperature)
    assert 0 < exact.gap < 1e-2
    assert found.gap == pytest.approx(exact.gap, rel=1e-3)
    assert found.gap <= found.bound_covariance * (1 + 1e-4)
