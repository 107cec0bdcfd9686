"""Factors that make unbiased estimates of ‖G‖² into E[‖G‖²/(σ + ξ)]."""

import numpy as np
import pytest
from scipy.stats import binom
from tests.impact.test_mixing import expected_counts

from valuegrad.impact.mixing import mixing
from valuegrad.impact.signal_slopes import inverse_deviation, signal_slopes

N = 32
POWERS = {"one": (0, 0), "1/(1-p)^2": (0, -2), "p": (1, 0), "1/p": (-1, 0)}


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize(("low", "high"), [(0.02, 0.3), (0.05, 0.7), (0.5, 0.99)])
def test_the_alignment_is_right_whatever_the_distance_of_the_means(low, high, power):
    """By the sum over counts, to 2%; where D grows without bound to 7%, and E[1/σ | k] to 16%."""
    p = np.exp(np.linspace(np.log(low), np.log(high), 60))
    counts = expected_counts(p, np.full(60, 1 / 60))
    fit = mixing(counts, N)
    a, b = POWERS[power]
    distance = p**a * (1 - p) ** b
    truth = (distance * (p * (1 - p)) ** 2 * inverse_deviation(p)).mean()
    k = np.arange(N + 1)
    ways = k * (k - 1) * (N - k) * (N - k - 1) / (N * (N - 1) * (N - 2) * (N - 3))
    chance = binom.pmf(k[:, None], N, p)
    slopes = np.zeros(N + 1)
    slopes[counts] = signal_slopes(fit, counts, N)
    found = (distance * ((ways * slopes) @ chance)).mean()
    assert found == pytest.approx(truth, rel=0.07 if power == "1/(1-p)^2" else 0.02)


def test_counts_without_an_estimate_have_no_slope():
    counts = np.array([0, 1, 31, 32])
    assert not signal_slopes(mixing(counts, N), counts, N).any()
    assert signal_slopes(mixing(np.array([2]), 4), np.array([2]), 4)[0] > 1.9
