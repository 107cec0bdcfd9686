"""When a statement holds, and how far it is from holding."""

import math

import pytest
import torch

from valuegrad.theory.statement import Statement, equality, inequality


def test_an_identity_s_error_is_relative_to_the_larger_side():
    found = equality("3 = 4", "arithmetic", torch.tensor([0.0, 3.0]), torch.tensor([0.0, 4.0]))
    assert (found.left, found.right, found.error) == (3.0, 4.0, 0.25)
    assert not found.holds
    assert equality("3 = 4", "arithmetic", torch.tensor(3.0), torch.tensor(4.0), 0.25).holds


def test_sides_of_one_size_in_other_directions_differ():
    left, right = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert equality("", "", left, right).error == pytest.approx(math.sqrt(2))


def test_two_zeros_are_equal():
    assert equality("", "", torch.zeros(3), torch.zeros(3)).error == 0


@pytest.mark.parametrize(
    ("left", "right", "error", "slack"),
    [
        (1.0, 2.0, -0.5, 2.0),
        (2.0, 1.0, 1.0, 0.5),
        (1.0, 1.0 - 1e-12, 1e-12, 1.0),
        (0.0, 0.0, -1.0, math.nan),
        (1.0, 0.0, math.inf, 0.0),
    ],
)
def test_an_inequality_s_error_is_above_zero_where_it_fails(left, right, error, slack):
    found = inequality("", "", left, right)
    assert found.error == pytest.approx(error, rel=1e-3)
    assert found.slack == pytest.approx(slack, nan_ok=True)
    assert found.holds == (error <= 1e-9)


def test_what_is_not_a_number_never_holds():
    assert not equality("", "", torch.tensor(math.nan), torch.tensor(1.0)).holds
    assert not inequality("", "", math.nan, 1.0).holds
    assert not Statement("", "", 1.0, 1.0, math.nan, math.inf).holds
