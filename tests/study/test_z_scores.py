"""The paper's z-scores by their definition."""

import math

import numpy as np
import pytest

from valuegrad.errors import UserError
from valuegrad.study.z_scores import z_combination, z_scores


def test_z_scores():
    values = np.random.default_rng(0).normal(3, 2, 12)
    std = math.sqrt(sum((values - sum(values) / 12) ** 2) / 12)
    np.testing.assert_allclose(z_scores(values), (values - sum(values) / 12) / std, rtol=1e-12)
    np.testing.assert_allclose(
        z_combination(5 * values + 1, -values), np.zeros(12), rtol=0, atol=1e-12
    )
    undefined = ([0.1] * 3, [1.0, math.nan, 2.0], [1.0, math.inf, 2.0], [])
    for found in undefined:
        assert np.isnan(z_scores(np.array(found))).all()
    assert np.isnan(z_combination(np.full(12, 0.1), values)).all()


def test_wrong_shapes_name_the_argument():
    with pytest.raises(UserError, match=r"^values: got shape \(4, 1\); wanted shape \(n,\)"):
        z_scores(np.ones((4, 1)))
    with pytest.raises(UserError, match=r"^predictor: got shape \(3,\)"):
        z_combination(np.ones(4), np.ones(3))
