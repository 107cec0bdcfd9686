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


def test_an_identity_is_a_check_and_an_inequality_a_bound_whatever_its_slack():
    assert equality("", "", 1.0, 1.0).kind == "check"
    for right in (1.0, 2.0, 1000.0):
        found = inequality("", "", 1.0, right)
        assert (found.kind, found.check, found.slack) == ("bound", False, right)
    assert equality("", "", 1.0, 2.0, form="paper").kind == "paper"
    assert not inequality("", "", 1.0, 2.0, form="paper").check


def test_entrywise_a_small_entry_counts_as_much_as_a_large_one():
    sides = [1000.0, 1.0], [1000.0, 1.01]
    assert equality("", "", *sides).error == pytest.approx(1e-5, rel=1e-3)
    assert equality("", "", *sides, entrywise=True).error == pytest.approx(0.01 / 1.01)
    assert equality("", "", [0.0, 0.0], [0.0, 0.0], entrywise=True).error == 0
    assert not equality("", "", [1.0, math.nan], [1.0, 1.0], entrywise=True).holds


def test_lists_of_arrays_are_one_long_array():
    one = [torch.tensor([3.0, 0.0]), torch.tensor(0.0)]
    other = [torch.tensor([3.0, 0.0]), torch.tensor(4.0)]
    found = equality("", "", one, other)
    assert (found.left, found.right, found.error) == (3.0, 5.0, 0.8)
    with pytest.raises(AssertionError):
        equality("", "", torch.zeros(2), torch.zeros(1))


def test_a_bound_on_what_is_below_zero_has_no_slack():
    assert math.isnan(inequality("", "", -1.0, 2.0).slack)
