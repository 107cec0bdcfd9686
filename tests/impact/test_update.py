"""Gradients summed over batches with slopes of their own, and ppo's common slope at the end."""

import pytest
import torch
from tests import oracles

from valuegrad.impact.update import add_gradients, expected_update, length, moving_parameters


@pytest.mark.parametrize("method", oracles.METHODS)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_batches_add_up_to_the_gradient_of_the_objective(method, size):
    """mean_q slope_q V_q of five prompts with two rewards each, V linear in the parameters."""
    generator = torch.Generator().manual_seed(1)
    parameters = [
        torch.rand(n, generator=generator, dtype=torch.float64).requires_grad_() for n in (3, 4)
    ]
    rows = torch.rand(5, 7, generator=generator, dtype=torch.float64) / 7

    def values(part):
        return rows[part] @ torch.cat(parameters)

    every = values(slice(None)).detach()

    def passes():
        for start in range(0, 5, size):
            output = values(slice(start, start + size))
            v = output.detach()
            yield v, v * (1 - v), output, torch.ones_like(v)

    found = expected_update(parameters, method, 5, passes())
    ps = torch.stack([every, 1 - every], 1)
    outcomes = torch.tensor([1.0, 0.0], dtype=torch.float64)
    held = []
    for p, A in zip(
        ps, oracles.population_advantages(method, list(ps), [outcomes] * 5), strict=True
    ):
        # The slope of the advantage in the reward.
        held.append((A[0] - A[1]).item() if p[0] < 1 else 0.0)
    objective = (torch.tensor(held, dtype=torch.float64) * values(slice(None))).mean()
    expected = torch.autograd.grad(objective, parameters)
    for mine, other in zip(found.gradients, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=0)
    norm = torch.cat(expected).norm().item()
    assert found.gradient_norm == length(found.gradients) == pytest.approx(norm, rel=1e-12)
    assert found.parameters is parameters


def test_parameters_that_an_output_does_not_read_keep_their_total():
    one, other = (torch.ones(2, requires_grad=True) for _ in range(2))
    totals = [torch.zeros(2), torch.full((2,), 3.0)]
    add_gradients(totals, 2 * one, [one, other], torch.ones(2))
    assert totals[0].tolist() == [2, 2]
    assert totals[1].tolist() == [3, 3]


def test_frozen_parameters_do_not_move(policy):
    chosen = policy("gpt2")
    head = chosen.model.get_input_embeddings().weight
    head.requires_grad_(False)
    try:
        moving = moving_parameters(chosen)
        assert len(moving) == len(list(chosen.model.parameters())) - 1
        assert all(p is not head for p in moving)
    finally:
        head.requires_grad_(True)
