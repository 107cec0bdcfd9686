"""Matrix-free Jacobians and their norms against dense ones, by autograd and for hard spectra."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import aslinearoperator
from tests.conftest import ARCHITECTURES

from valuegrad.credit.jacobians import (
    effective_rank,
    of_function,
    sampling_jacobian,
    spectral_norm,
    step_jacobian,
)
from valuegrad.errors import RunError
from valuegrad.model.cache import first_positions, prefill
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
        _, finals = prefill(policy, SEQUENCE)
        p = (logits(policy, finals[position]) / temperature).softmax(0)
    sample = (torch.diag(p) - p[:, None] * p) / temperature
    return dense_step(policy.model, position) @ table.mT @ sample @ head, p


@pytest.mark.parametrize("temperature", [1.0, 0.4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_operators_equal_dense_jacobians(policy, architecture, temperature):
    chosen, position = policy(architecture), 4
    with torch.no_grad():
        cache, _ = prefill(chosen, SEQUENCE)
    expected, p = dense_sampling(chosen, position, temperature)
    step = step_jacobian(chosen, first_positions(cache, position + 1), SEQUENCE[position + 1])
    operator = sampling_jacobian(chosen, step, p, temperature)
    several = np.random.default_rng(0).standard_normal((16, 70))
    for found, dense in ((step, dense_step(chosen.model, position)), (operator, expected)):
        matrix = dense.numpy()
        # One vector is a plain derivative, several at once are a vectorised one.
        for x in (several, several[:, 0]):
            for product, true in ((found @ x, matrix @ x), (found.H @ x, matrix.T @ x)):
                assert product.shape == true.shape
                assert np.linalg.norm(product - true) <= 1e-10 * np.linalg.norm(true)
    norm = np.linalg.norm(expected, 2)
    assert spectral_norm(operator) == pytest.approx(norm, rel=1e-8)
    assert effective_rank(operator) == pytest.approx((np.linalg.norm(expected) / norm) ** 2)


def spectra(width):
    """Clusters, ties and slow decay at the top, where iterations stop early."""
    uniform = np.random.default_rng(0).random(width)
    index = np.arange(width)
    yield "power", 1 / (1 + index)
    yield "linear", 1 - index / width
    yield "flat", np.ones(width)
    yield "one above a plateau", np.where(index == 0, 1.0, 0.999)
    yield "rank one", (index == 0).astype(float)
    for step in (1e-6, 1e-4, 1e-2):
        yield f"five within {4 * step:g}", np.where(index < 5, 1 - step * index, 0.5 * uniform)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", [name for name, _ in spectra(9)])
def test_spectral_norm_of_hard_spectra(name, dtype):
    generator = np.random.default_rng(1)
    left, right = (np.linalg.qr(generator.standard_normal((128, 128)))[0] for _ in range(2))
    values = dict(spectra(128))[name]
    matrix = torch.tensor(1e-5 * (left * values) @ right, dtype=dtype)
    jacobian = of_function(lambda x: x @ matrix.mT, torch.zeros(128, dtype=dtype))
    assert spectral_norm(jacobian) == pytest.approx(1e-5 * values.max(), rel=1e-5)
    rank = (values**2).sum() / values.max() ** 2
    assert effective_rank(jacobian) == pytest.approx(rank, rel=3e-5)


@pytest.mark.parametrize("shape", [(30, 90), (90, 30), (3, 90), (90, 3)])
def test_maps_between_spaces_of_other_widths(shape):
    matrix = np.random.default_rng(2).standard_normal(shape)
    expected = np.linalg.norm(matrix, 2)
    assert spectral_norm(aslinearoperator(matrix)) == pytest.approx(expected, rel=1e-6)


def test_the_norm_is_the_seed_s_alone():
    matrix = aslinearoperator(np.random.default_rng(3).standard_normal((40, 40)))
    assert spectral_norm(matrix, seed=1) == spectral_norm(matrix, seed=1)
    assert spectral_norm(matrix, seed=1) == pytest.approx(spectral_norm(matrix, seed=2), rel=1e-6)


@pytest.mark.parametrize("width", [8, 64])
def test_a_map_to_zero_has_no_norm_and_no_rank(width):
    jacobian = of_function(lambda x: 0 * x, torch.ones(width, dtype=torch.float64))
    assert spectral_norm(jacobian) == 0
    assert effective_rank(jacobian) == 0


def test_a_map_that_is_not_finite_is_refused():
    jacobian = of_function(lambda x: x * torch.nan, torch.ones(64))
    with pytest.raises(RunError, match=r"did not converge .* load the policy with dtype float64"):
        spectral_norm(jacobian)
