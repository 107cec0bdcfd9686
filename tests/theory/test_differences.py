"""Central differences against derivatives that are known."""

import torch

from valuegrad.theory.differences import difference, jacobian, unit_direction


def test_a_derivative_is_right_to_fourth_order():
    found = difference(lambda x: torch.tensor([x**4 + 3 * x, 2.0]).double(), step=0.5)
    assert torch.allclose(found, torch.tensor([3.0, 0.0]).double(), atol=1e-12)


def test_a_matrix_has_a_column_for_each_coordinate():
    matrix = torch.randn(3, 70, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = jacobian(lambda rows: (rows @ matrix.mT).sin(), torch.zeros(70).double())
    assert torch.allclose(found, matrix, atol=1e-9)


def test_a_direction_has_length_one(policy):
    one = unit_direction(policy("gpt2"), torch.Generator().manual_seed(1))
    assert one.shape == (16,)
    assert abs(float(one.norm()) - 1) < 1e-12
