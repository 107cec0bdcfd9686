"""Permutation tests against enumerations, and their level on series as runs make them."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from tests.study.series import KINDS, series

from valuegrad.study.permutation import exchangeable_p_value, trajectory_p_value

LEVEL = 1e-3  # of every test of a simulated number
CASES = [
    ([0.3, -1.2, 2.5, 0.9, 1.1], [0.10, 0.02, 0.30, 0.31, 0.05]),
    ([1.0, 1.0, 2.0, 3.0, 3.0], [0.2, 0.1, 0.1, 0.4, 0.3]),
]


def enumerated(x, y):
    """Twice the smaller tail over all orders of one column."""
    observed = stats.spearmanr(x, y).statistic
    null = np.array([stats.spearmanr(p, y).statistic for p in itertools.permutations(x)])
    tails = np.mean(null >= observed - 1e-12), np.mean(null <= observed + 1e-12)
    return min(1.0, 2 * min(tails))


@pytest.mark.parametrize(("x", "y"), CASES)
def test_the_plain_test_matches_enumeration(x, y):
    found = exchangeable_p_value(np.array(x), np.array(y), 9999, np.random.default_rng(0))
    assert found == pytest.approx(enumerated(x, y), rel=1e-12)


def test_the_test_on_a_trajectory_is_the_worst_of_its_quasi_differences():
    x, y = (np.array(z) for z in CASES[0])
    every = [enumerated(x[1:] - phi / 10 * x[:-1], y[1:] - phi / 10 * y[:-1]) for phi in range(11)]
    found = trajectory_p_value(x, y, 9999, np.random.default_rng(0))
    assert found == pytest.approx(max(every), rel=1e-12)
    assert min(every) < max(every)
    scaled = trajectory_p_value(7e-9 * x, -3e6 * y + 0.0, 9999, np.random.default_rng(0))
    assert scaled == pytest.approx(found, rel=1e-12)


def test_equal_differences_tell_nothing_from_a_random_walk_with_drift():
    steps, rng = 0.1 * np.arange(8), np.random.default_rng(0)
    assert math.isnan(trajectory_p_value(steps, rng.normal(size=8), 99, rng))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [8, 20])
def test_at_most_the_level_of_unrelated_trajectories_is_called_related(kind, n):
    rng = np.random.default_rng(0)
    trials, level = 300, 0.05
    x, y = series(kind, (2, trials, n), rng)
    p = np.array([trajectory_p_value(a, b, 199, rng) for a, b in zip(x, y, strict=True)])
    called = int((p <= level).sum())
    assert stats.binomtest(called, trials, level, alternative="greater").pvalue > LEVEL


def test_the_plain_test_calls_unrelated_random_walks_related():
    rng = np.random.default_rng(0)
    x, y = series("random walk", (2, 200, 20), rng)
    p = np.array([exchangeable_p_value(a, b, 199, rng) for a, b in zip(x, y, strict=True)])
    assert (p <= 0.05).mean() > 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_related_is_found(kind):
    rng = np.random.default_rng(1)
    x = series(kind, (100, 20), rng)
    y = x + 0.2 * x.std(axis=1, keepdims=True) * rng.standard_normal(x.shape)
    p = np.array([trajectory_p_value(a, b, 199, rng) for a, b in zip(x, y, strict=True)])
    assert (p <= 0.05).mean() > 0.9


def test_the_plain_test_is_exact_where_it_is_sampled():
    rng = np.random.default_rng(0)
    trials, level = 300, 0.1
    p = [exchangeable_p_value(*rng.normal(size=(2, 10)), 199, rng) for _ in range(trials)]
    assert stats.binomtest(int(np.sum(np.array(p) <= level)), trials, level).pvalue > LEVEL
