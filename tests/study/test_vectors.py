"""Shapes of columns, and what says why nothing can be said of them."""

import math

import numpy as np
import pytest

from valuegrad.errors import UserError
from valuegrad.study.vectors import by_seed, centred_ranks, is_constant, vector, why_undefined


def test_columns_have_one_number_a_checkpoint_and_gains_one_more_axis():
    assert vector("x", np.arange(3.0)).dtype == np.float64
    assert by_seed("gains", np.arange(3.0), 3).shape == (3, 1)
    assert by_seed("gains", np.ones((3, 5)), 3).shape == (3, 5)
    with pytest.raises(UserError, match=r"^x: got shape \(2, 1\); wanted shape \(n,\)"):
        vector("x", np.ones((2, 1)))
    with pytest.raises(UserError, match=r"^gains: got shape \(2, 3\); wanted .* or \(4, seeds\)"):
        by_seed("gains", np.ones((2, 3)), 4)


def test_why_nothing_can_be_said():
    assert why_undefined(np.ones(4), np.ones((4, 2))) == ""
    assert why_undefined(np.ones(3)) == "fewer than 4 checkpoints"
    assert why_undefined(np.array([1.0, 2, math.nan, 4])) == "non-finite input"
    assert is_constant(np.ones(3))
    assert not is_constant(np.arange(2.0))


def test_ranks_are_whole_numbers_around_0():
    assert centred_ranks(np.array([3.0, 1.0, 1.0, 9.0])).tolist() == [1, -2, -2, 3]
