"""Predictors as columns over checkpoints."""

import math

import numpy as np
import pytest

from valuegrad.study.predictors import DEFAULT, PREDICTORS, column, meaning


def test_a_column_is_a_predictor_s_or_a_score_s_own_with_nan_for_null():
    scores = [{DEFAULT: 0.5, "sigma": 1}, {DEFAULT: None, "sigma": 2}]
    np.testing.assert_array_equal(column(scores, DEFAULT), [0.5, math.nan])
    np.testing.assert_array_equal(column(scores, "sigma"), [1.0, 2.0])
    with pytest.raises(KeyError, match="entropy"):
        column(scores, "entropy")


def test_every_predictor_says_what_it_is():
    assert all(meaning(name) for name in PREDICTORS)
    assert meaning("of another version") == ""
