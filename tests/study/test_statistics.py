"""Rank statistics against definitions written out, exact enumerations and closed forms."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from valuegrad.errors import UserError
from valuegrad.study.statistics import (
    best_probability,
    correlate,
    rank_intervals,
    regret,
    z_combination,
    z_scores,
)

LEVEL = 1e-3  # of every test of a simulated number

UNTIED = ([0.3, -1.2, 2.5, 0.9, 1.1], [0.10, 0.02, 0.30, 0.31, 0.05])
TIED = ([1.0, 1.0, 2.0, 3.0, 3.0], [0.2, 0.1, 0.1, 0.4, 0.3])


def vector(*values):
    return np.array(values, dtype=np.float64)


def naive_ranks(values):
    return [sum(b < a for b in values) + (sum(b == a for b in values) + 1) / 2 for a in values]


def naive_pearson(a, b):
    a, b = np.array(a) - np.mean(a), np.array(b) - np.mean(b)
    norm = math.sqrt(sum(a * a) * sum(b * b))
    return sum(a * b) / norm if norm > 0 else math.nan


def naive_spearman(a, b):
    return naive_pearson(naive_ranks(a), naive_ranks(b))


def naive_residuals(a, given):
    design = np.stack([np.ones(len(given)), given], axis=1)
    return np.array(a) - design @ np.linalg.lstsq(design, np.array(a))[0]


def random_case(seed, n=9):
    """Return scores and rewards with many ties, and gains that depend on both."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, n).astype(np.float64)
    reward = rng.integers(0, 4, n) / 4
    return scores, (scores + 4 * reward + rng.integers(0, 4, n)) / 10, reward


@pytest.mark.parametrize("seed", range(8))
def test_spearman_and_partial_match_their_definitions(seed):
    scores, gains, reward = random_case(seed)
    found = correlate(scores, gains, reward, resamples=9)
    assert found.n == 9
    assert found.spearman == pytest.approx(naive_spearman(scores, gains), rel=1e-12, abs=1e-12)
    s, g, r = naive_ranks(scores), naive_ranks(gains), naive_ranks(reward)
    partial = naive_pearson(naive_residuals(s, r), naive_residuals(g, r))
    assert found.partial_given_reward == pytest.approx(partial, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize(("scores", "gains"), [UNTIED, TIED])
def test_p_value_matches_enumeration(scores, gains):
    observed = naive_spearman(scores, gains)
    null = np.array([naive_spearman(p, gains) for p in itertools.permutations(scores)])
    tails = np.mean(null >= observed - 1e-12), np.mean(null <= observed + 1e-12)
    found = correlate(vector(*scores), vector(*gains))
    assert found.p_value == pytest.approx(min(1.0, 2 * min(tails)), rel=1e-12)


def test_p_value_is_valid_where_it_is_sampled():
    rng = np.random.default_rng(0)
    trials, level = 200, 0.1
    p = [correlate(*rng.normal(size=(2, 10)), resamples=199).p_value for _ in range(trials)]
    assert stats.binomtest(int(np.sum(np.array(p) <= level)), trials, level).pvalue > LEVEL


@pytest.mark.parametrize(("scores", "gains"), [UNTIED, TIED])
def test_interval_matches_all_resamples(scores, gains):
    resamples, n = 9999, len(scores)
    every = [
        naive_spearman([scores[i] for i in chosen], [gains[i] for i in chosen])
        for chosen in itertools.product(range(n), repeat=n)
    ]
    defined = np.array(every)[np.isfinite(every)]
    found = correlate(vector(*scores), vector(*gains), resamples=resamples, confidence=0.9)
    for bound, level in zip(found.interval, (0.05, 0.95), strict=True):
        slack = stats.norm.isf(LEVEL / 2) * math.sqrt(level * (1 - level) / resamples)
        assert np.mean(defined < bound - 1e-9) <= level + slack
        assert np.mean(defined <= bound + 1e-9) >= level - slack
    dropped = int(found.reasons["resamples"].split()[1])
    constant = 1 - len(defined) / len(every)
    assert stats.binomtest(dropped, resamples, constant).pvalue > LEVEL


def test_interval_covers_at_its_level():
    rng = np.random.default_rng(0)
    trials, r = 300, 0.6
    truth = 6 / math.pi * math.asin(r / 2)  # Spearman's ρ of a bivariate normal
    covered = 0
    for _ in range(trials):
        x, noise = rng.normal(size=(2, 20))
        low, high = correlate(x, r * x + math.sqrt(1 - r * r) * noise, resamples=399).interval
        covered += low <= truth <= high
    assert stats.binomtest(covered, trials, 0.95).pvalue > LEVEL


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.tuples(*[st.integers(-20, 20)] * 3), min_size=4, max_size=9),
    shuffle=st.randoms(use_true_random=False),
)
def test_correlation_ignores_units_and_order(rows, shuffle):
    scores, gains, reward = np.array(rows, dtype=np.float64).T
    expected = repr(correlate(scores, gains, reward, resamples=99))
    assert repr(correlate(scores**3 + 2, np.exp(gains / 9), reward, resamples=99)) == expected
    shuffle.shuffle(rows)
    assert repr(correlate(*np.array(rows, dtype=np.float64).T, resamples=99)) == expected


def test_correlation_changes_sign_with_the_scores():
    scores, gains, reward = random_case(0)
    up, down = (correlate(sign * scores, gains, reward, resamples=9) for sign in (1, -1))
    assert down.spearman == -up.spearman
    assert down.partial_given_reward == -up.partial_given_reward


def test_correlation_is_the_same_for_a_seed():
    scores, gains, reward = random_case(1, n=20)
    first, again = (correlate(scores, gains, reward, seed=3) for _ in range(2))
    assert first == again
    assert correlate(scores, gains, reward, seed=4).interval != first.interval


@pytest.mark.parametrize(
    ("scores", "gains", "reason"),
    [
        (vector(), vector(), "fewer than 4 checkpoints"),
        (vector(1, 2, 3), vector(1, 2, 3), "fewer than 4 checkpoints"),
        (vector(1, 1, 1, 1), vector(1, 2, 3, 4), "constant input"),
        (vector(1, 2, 3, 4), vector(0, 0, 0, 0), "constant input"),
        (vector(1, 2, math.nan, 4), vector(1, 2, 3, 4), "non-finite input"),
        (vector(1, 2, 3, 4), vector(1, 2, 3, math.inf), "non-finite input"),
    ],
)
def test_correlation_undefined(scores, gains, reason):
    found = correlate(scores, gains, scores)
    numbers = (found.spearman, *found.interval, found.p_value, found.partial_given_reward)
    assert np.isnan(numbers).all()
    fields = ("spearman", "interval", "p_value", "partial_given_reward")
    assert found.reasons == dict.fromkeys(fields, reason)


@pytest.mark.parametrize(
    ("reward", "reason"),
    [
        (None, "no reward_before"),
        (vector(0, 0, 0, 0, 0), "constant reward_before"),
        (vector(0, 1, 2, math.nan, 4), "non-finite input"),
        (vector(3, 1, 8, 4, 7), "scores perfectly rank-correlated with reward_before"),
        (vector(-3, -2, -4, -5, -2.5), "gains perfectly rank-correlated with reward_before"),
    ],
)
def test_partial_undefined(reward, reason):
    scores, gains = vector(0.3, -1.2, 2.5, 0.9, 1.1), vector(0.10, 0.02, 0.30, 0.31, 0.05)
    found = correlate(scores, gains, reward)
    assert math.isfinite(found.spearman)
    assert math.isnan(found.partial_given_reward)
    assert found.reasons["partial_given_reward"] == reason


def test_interval_undefined():
    halves = correlate(vector(1, 1, 2, 2), vector(1, 2, 3, 4))
    assert np.isnan(halves.interval).all()
    assert halves.reasons["interval"].endswith(" of 9999 resamples constant")
    perfect = correlate(np.arange(20.0), np.arange(20.0))
    assert perfect.spearman == 1.0
    assert np.isnan(perfect.interval).all()
    assert perfect.reasons["interval"] == "every resample has the same ρ"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: correlate(np.ones((2, 2)), np.ones(4)), r"^scores: got shape \(2, 2\); wanted"),
        (lambda: correlate(np.ones(4), np.ones(3)), r"^gains: got shape \(3,\); wanted shape \(4,"),
        (lambda: correlate(np.ones(4), np.ones(4), np.ones(5)), r"^reward_before: got shape \(5,"),
        (
            lambda: correlate(np.ones(4), np.ones(4), confidence=1.0),
            r"^confidence: got 1.0; .*0, 1",
        ),
        (lambda: correlate(np.ones(4), np.ones(4), resamples=0), r"^resamples: got 0; .*above 0"),
        (lambda: regret(np.ones(4), np.ones(3)), r"^gains: got shape \(3,\)"),
        (lambda: z_scores(np.ones((4, 1))), r"^values: got shape \(4, 1\); wanted shape \(n,\)"),
        (lambda: z_combination(np.ones(4), np.ones(3)), r"^predictor: got shape \(3,\)"),
        (lambda: best_probability(np.ones(2), np.ones(3)), r"^standard_errors: got shape \(3,\)"),
        (lambda: best_probability(np.ones(2), vector(1, -1)), r"^standard_errors: got \[1.0, -1.0"),
        (lambda: best_probability(np.ones(1), vector(math.inf)), r"^standard_errors: got \[inf\]"),
        (lambda: best_probability(np.ones(2), np.ones(2), draws=0), r"^draws: got 0"),
        (lambda: rank_intervals(np.ones(2), np.ones(2), 0.0), r"^confidence: got 0.0"),
    ],
)
def test_wrong_requests_name_the_argument(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_regret():
    gains = vector(0.1, 0.4, 0.2, 0.3)
    assert regret(vector(1, 5, 2, 3), gains) == 0.0
    assert regret(vector(7, 5, 2, 3), gains) == pytest.approx(0.3, rel=1e-12)
    assert regret(vector(7, 5, 7, 3), gains) == pytest.approx(0.25, rel=1e-12)
    assert regret(vector(math.nan, math.nan, 7, 3), gains) == pytest.approx(0.2, rel=1e-12)
    assert math.isnan(regret(np.full(4, math.nan), gains))
    assert math.isnan(regret(vector(7, 5, 2, 3), vector(0.1, math.nan, 0.2, 0.3)))


def test_z_scores():
    values = np.random.default_rng(0).normal(3, 2, 12)
    std = math.sqrt(sum((values - sum(values) / 12) ** 2) / 12)
    np.testing.assert_allclose(z_scores(values), (values - sum(values) / 12) / std, rtol=1e-12)
    np.testing.assert_allclose(
        z_combination(5 * values + 1, -values), np.zeros(12), rtol=0, atol=1e-12
    )
    for undefined in (np.full(3, 0.1), vector(1, math.nan, 2), vector(1, math.inf, 2), vector()):
        assert np.isnan(z_scores(undefined)).all()
    assert np.isnan(z_combination(np.full(12, 0.1), values)).all()


def test_best_probability_of_two_is_the_normal_tail():
    draws = 20000
    found = best_probability(vector(1.0, 1.5), vector(0.3, 0.4), draws=draws)
    assert found.sum() == pytest.approx(1, rel=1e-12)
    truth = stats.norm.cdf(0.5 / 0.5)
    assert stats.binomtest(round(found[1] * draws), draws, truth).pvalue > LEVEL


def test_best_probability_edges():
    equal = best_probability(np.zeros(5), np.ones(5), draws=20000)
    assert stats.chisquare(equal * 20000).pvalue > LEVEL
    missing = best_probability(vector(2, math.nan, 1, 2), vector(math.nan, 1, 0, 0))
    np.testing.assert_array_equal(missing, [0.5, 0, 0, 0.5])
    assert np.isnan(best_probability(np.full(3, math.nan), np.ones(3))).all()


def test_rank_intervals():
    values = vector(4, 9, 4, math.nan, 1)
    exact = rank_intervals(values, np.full(5, math.nan))
    np.testing.assert_array_equal(exact[:, 0], [2.5, 1, 2.5, math.nan, 4])
    np.testing.assert_array_equal(exact[:, 0], exact[:, 1])
    equal = rank_intervals(np.zeros(20), np.ones(20), 0.55)  # uniform over 20: 0.225 and 0.775
    np.testing.assert_array_equal(equal, [[5, 16]] * 20)
    apart = rank_intervals(vector(0, 100, 0.1), np.ones(3))
    np.testing.assert_array_equal(apart, [[2, 3], [1, 1], [2, 3]])


def test_ranking_is_the_same_for_a_seed():
    values, errors = np.random.default_rng(0).uniform(size=(2, 6))
    first, again = (best_probability(values, errors, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (best_probability(values, errors, seed=4) != first).any()
