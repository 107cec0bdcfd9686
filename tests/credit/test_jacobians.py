"""Matrix-free Jacobians and norms against dense ones by autograd, and the gap below its bounds."""

import pytest
import torch
from tests.conftest import ARCHITECTURES

from valuegrad.credit.jacobians import (
    effective_rank,
    frobenius_norm,
    of_function,
    sampling_jacobian,
    spectral_norm,
    step_jacobian,
)
from valuegrad.credit.sampling_gap import sampling_gap, sampling_gaps, table_norms
from valuegrad.errors import UserError
from valuegrad.model.cache import prefix, read
from valuegrad.model.policy import logits

SEQUENCE = [5, 9, 33, 7, 41, 260, 17, 2]


def dense_step(model, position):
    """∂h_{t+1}/∂e_t from the whole sequence without a cache."""
    table = model.get_input_embeddings().weight.detach()
    known = table[torch.tensor(SEQUENCE[: position + 1])]

    def final(e):
        embedded = torch.cat((known, e[None]))[None]
        return model.base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state[0, -1]

    return torch.autograd.functional.jacobian(final, table[SEQUENCE[position + 1]])


def dense_sampling(policy, position, temperature):
    head = policy.head
    table = policy.model.get_input_embeddings().weight.detach()[: len(head)]
    with torch.no_grad():
        _, finals = read(policy, SEQUENCE)
        p = (logits(policy, finals[position]) / temperature).softmax(0)
    sample = (torch.diag(p) - p[:, None] * p) / temperature
    return dense_step(policy.model, position) @ table.mT @ sample @ head, p


@pytest.mark.parametrize("temperature", [1.0, 0.4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_operators_equal_dense_jacobians(policy, architecture, temperature):
    chosen, position = policy(architecture), 4
    with torch.no_grad():
        cache, _ = read(chosen, SEQUENCE)
    expected, p = dense_sampling(chosen, position, temperature)
    step = step_jacobian(chosen, prefix(cache, position + 1), SEQUENCE[position + 1])
    operator = sampling_jacobian(chosen, step, p, temperature)
    x = torch.randn(7, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for product, matrix in ((operator.apply, expected.mT), (operator.adjoint, expected)):
        assert (product(x) - x @ matrix).norm() <= 1e-10 * (x @ matrix).norm()
    found = sampling_gap(chosen, SEQUENCE, position, temperature)
    norm = float(torch.linalg.matrix_norm(expected, 2))
    assert found.gap == pytest.approx(norm, rel=1e-8)
    step_norm = float(torch.linalg.matrix_norm(dense_step(chosen.model, position), 2))
    assert found.step_norm == pytest.approx(step_norm, rel=1e-8)
    assert effective_rank(operator) == pytest.approx(float(expected.norm()) ** 2 / norm**2)
    # A pathwise derivative of the relaxed step itself: perturb h_t, soft token, next state.
    assert found.gap <= found.bound_spectral <= found.bound_trace <= found.bound_maximum
    assert found.bound_maximum <= found.bound_paper * (1 + 1e-12)
    assert found.gap <= found.bound_linear <= found.bound_paper


@pytest.mark.parametrize("spread", [0.0, 0.02, 1.0])
def test_spectral_norm_of_wide_maps(spread):
    """Clustered, close and separated largest singular values, wider than a dense fallback."""
    generator = torch.Generator().manual_seed(1)
    q, _ = torch.linalg.qr(torch.randn(90, 90, generator=generator, dtype=torch.float64))
    r, _ = torch.linalg.qr(torch.randn(90, 90, generator=generator, dtype=torch.float64))
    values = torch.linspace(1, 0, 90, dtype=torch.float64) ** (1 + 4 * spread)
    values[:3] += spread * torch.tensor([3.0, 1.0, 0.5])
    matrix = 1e-5 * q @ torch.diag(values) @ r
    jacobian = of_function(lambda x: x @ matrix.mT, torch.zeros(90, dtype=torch.float64))
    assert spectral_norm(jacobian) == pytest.approx(1e-5 * float(values.max()), rel=1e-4)
    assert frobenius_norm(jacobian) == pytest.approx(float(matrix.norm()), rel=1e-12)


def test_a_map_to_zero_has_no_norm_and_no_rank():
    jacobian = of_function(lambda x: 0 * x, torch.ones(64, dtype=torch.float64))
    assert spectral_norm(jacobian) == 0
    assert effective_rank(jacobian) == 0


def test_positions_together_equal_one_at_a_time(policy):
    chosen = policy("olmo2")
    together = sampling_gaps(chosen, SEQUENCE, [0, 3, -2])
    alone = [sampling_gap(chosen, SEQUENCE, position) for position in (0, 3, 6)]
    for one, other in zip(together, alone, strict=True):
        assert one.position == other.position
        assert one.gap == pytest.approx(other.gap, rel=1e-10)


def test_table_norms(policy):
    for architecture in ("olmo2", "gpt2"):
        chosen = policy(architecture)
        found = table_norms(chosen)
        table = chosen.model.get_input_embeddings().weight.detach()
        for norm, matrix in ((found.embedding, table), (found.head, chosen.head)):
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
    with pytest.raises(UserError, match="sequence: got 50 tokens; wanted at most 48"):
        sampling_gap(policy("olmo2"), [1] * 50, 0)
