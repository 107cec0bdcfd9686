"""P(best) and intervals of ranks: shares of draws, joint errors, and calibration by simulation."""

import math

import numpy as np
import pytest
from scipy import stats
from tests.study.series import KINDS, series

from valuegrad.errors import UserError
from valuegrad.study.best import (
    best_probability,
    independent,
    rank_intervals,
    shared_prompts,
    true_draws,
)

LEVEL = 1e-3
PROMPTS = 64
RATIOS = (0.5, 1.0, 2.0, 5.0)  # checkpoints' spread over the error of a mean


def noise(name, shape, rng):
    """Errors with mean 0 and variance 1, also with heavier tails."""
    if name == "t":
        return rng.standard_t(4, shape) / math.sqrt(2)
    return rng.exponential(1, shape) - 1 if name == "skewed" else rng.standard_normal(shape)


def simulated_study(rng):
    """True values, and rows: checkpoint + prompt, the same for all, + interaction."""
    n, tails = int(rng.integers(3, 21)), rng.choice(["normal", "t", "skewed"])
    truth = series(rng.choice(KINDS), (n,), rng)
    truth *= rng.choice(RATIOS) / math.sqrt(PROMPTS) / max(truth.std(), 1e-9)
    shared = 3 * noise(tails, PROMPTS, rng)
    return truth, truth[:, None] + shared + noise(tails, (n, PROMPTS), rng)


def test_what_is_called_90_percent_is_best_in_85_to_95():
    rng = np.random.default_rng(0)
    called, flat, apart, covered, ranks = [], [], [], 0, 0
    for _ in range(1500):
        truth, rows = simulated_study(rng)
        values, error, n = rows.mean(1), shared_prompts(rows), len(rows)
        drawn = true_draws(values, error, np.arange(float(n)), draws=1000, seed=n)
        best = truth == truth.max()
        called += zip(best_probability(drawn), best, strict=True)
        # Beside it: a flat prior, and errors as if each checkpoint had prompts of its own.
        joint = rng.multivariate_normal(values, error.covariance, 1000, method="eigh")
        flat += zip(best_probability(joint), best, strict=True)
        errors = np.sqrt(np.diag(error.covariance))
        own = values + errors * rng.standard_normal((1000, n))
        apart += zip(best_probability(own), best, strict=True)
        low, high = rank_intervals(drawn).T
        true_rank = stats.rankdata(-truth)
        covered += int(((low <= true_rank) & (true_rank <= high)).sum())
        ranks += n
    right, calls = share_of_90(called)
    assert calls > 75
    assert 0.85 <= right <= 0.95
    assert covered / ranks >= 0.95
    assert share_of_90(flat)[0] < 0.85
    assert share_of_90(apart)[1] < calls / 3  # errors that seem too large: hardly ever so sure


def share_of_90(called):
    """How often the best is what was called so with 85% to 95%, and how many such calls."""
    chosen = [best for chance, best in called if 0.85 <= chance <= 0.95]
    return float(np.mean(chosen)), len(chosen)


def test_shared_prompts_have_the_covariance_of_their_means():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3, 8)) + rng.normal(size=8)
    found = shared_prompts(rows)
    np.testing.assert_allclose(found.covariance, np.cov(rows) / 8, rtol=1e-12)
    assert found.freedom == 7
    strata = list("aabbccdd")
    inside = rows.reshape(3, 4, 2)
    within = inside - inside.mean(2, keepdims=True)
    by_hand = sum(within[:, h] @ within[:, h].T * 2 for h in range(4)) / 64
    found = shared_prompts(rows, strata)
    np.testing.assert_allclose(found.covariance, by_hand, rtol=1e-12)
    assert found.freedom == 4


def test_what_prompts_have_in_common_decides_nothing():
    rng = np.random.default_rng(0)
    easy = 10 * rng.normal(size=64)
    rows = np.array([[0.0], [0.5]]) + easy + 0.1 * rng.normal(size=(2, 64))
    surer = best_probability(true_draws(rows.mean(1), shared_prompts(rows)))
    errors = independent(rows.std(1, ddof=1) / 8, 63.0)
    assert surer[1] > 0.99 > 0.7 > best_probability(true_draws(rows.mean(1), errors))[1]


def test_two_checkpoints_are_drawn_towards_each_other():
    values, error = np.array([0.0, 1.0]), independent(np.full(2, 0.5), 1e6)
    chance = best_probability(true_draws(values, error))[1]
    assert 0.5 < chance < stats.norm.cdf(1 / math.sqrt(0.5))


def test_shares_of_draws():
    drawn = np.array([[1.0, 2, 0], [3, 2, 0], [3, 3, 1]])
    shares = (np.array([1.5, 1.5, 0]) + 1 / 3) / 4
    np.testing.assert_allclose(best_probability(drawn), shares, rtol=1e-12)
    missing = np.where([False, True, False], -np.inf, drawn)
    shares = np.array([3.5, 0, 0.5]) / 4
    np.testing.assert_allclose(best_probability(missing), shares, rtol=1e-12)
    assert np.isnan(best_probability(np.full((4, 2), -np.inf))).all()
    assert best_probability(np.ones((5, 1))).tolist() == [1.0]


def test_ranks_are_quantiles_of_draws():
    values = np.array([4, 9, 4, math.nan, 1])
    exact = rank_intervals(true_draws(values, independent(np.full(5, math.nan), 9.0)))
    np.testing.assert_array_equal(exact[:, 0], [2.5, 1, 2.5, math.nan, 4])
    np.testing.assert_array_equal(exact[:, 0], exact[:, 1])
    drawn = np.random.default_rng(0).standard_normal((20000, 20))
    np.testing.assert_array_equal(rank_intervals(drawn, 0.55), [[5, 16]] * 20)


def test_nothing_known_or_one_checkpoint():
    nothing = true_draws(np.full(3, math.nan), independent(np.ones(3), 9.0), draws=4)
    assert np.isneginf(nothing).all()
    one = true_draws(np.array([math.nan, 2.0]), independent(np.ones(2), 9.0), draws=4)
    np.testing.assert_array_equal(one, [[-np.inf, 2.0]] * 4)


def test_the_same_for_a_seed():
    values, error = np.arange(4.0), independent(np.ones(4), 9.0)
    first, again, other = (true_draws(values, error, seed=s, draws=50) for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: independent(np.array([1, -1.0]), 9.0), r"^standard_errors: got \[1.0, -1.0"),
        (lambda: independent(np.array([math.inf]), 9.0), r"^standard_errors: got \[inf\]"),
        (
            lambda: true_draws(np.ones(2), independent(np.ones(3), 9.0)),
            r"^error: got shape \(3, 3\)",
        ),
        (lambda: true_draws(np.ones(1), independent(np.ones(1), 9.0), draws=0), r"^draws: got 0"),
        (lambda: rank_intervals(np.ones((2, 2)), 0.0), r"^confidence: got 0.0"),
    ],
)
def test_wrong_requests_name_the_argument(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_one_prompt_says_nothing_of_which_is_the_best():
    values = np.array([0.1, 0.2, 0.3])
    drawn = true_draws(values, shared_prompts(values[:, None]), draws=50)
    assert np.isnan(best_probability(drawn)).all()
    assert np.isnan(rank_intervals(drawn)).all()
