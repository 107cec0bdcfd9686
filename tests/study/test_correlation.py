"""Rank correlations against their definitions, and the coverage of their interval over seeds."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tests.study.series import KINDS, series

from valuegrad.errors import UserError
from valuegrad.study.correlation import FIELDS, correlate, spearman
from valuegrad.study.permutation import EXCHANGEABLE, TRAJECTORY

LEVEL = 1e-3


def vector(*values):
    return np.array(values, dtype=np.float64)


def naive_ranks(values):
    return [sum(b < a for b in values) + (sum(b == a for b in values) + 1) / 2 for a in values]


def naive_pearson(a, b):
    a, b = np.array(a) - np.mean(a), np.array(b) - np.mean(b)
    norm = math.sqrt(sum(a * a) * sum(b * b))
    return sum(a * b) / norm if norm > 0 else math.nan


def naive_residuals(a, given):
    design = np.stack([np.ones(len(given)), given], axis=1)
    return np.array(a) - design @ np.linalg.lstsq(design, np.array(a))[0]


def naive_partial(a, b, given):
    a, b, given = (naive_ranks(z) for z in (a, b, given))
    return naive_pearson(naive_residuals(a, given), naive_residuals(b, given))


def random_case(seed, n=9):
    """Return scores and rewards with many ties, and gains that depend on both."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, n).astype(np.float64)
    reward = rng.integers(0, 4, n) / 4
    return scores, (scores + 4 * reward + rng.integers(0, 4, n)) / 10, reward


@pytest.mark.parametrize("seed", range(8))
def test_spearman_and_partials_match_their_definitions(seed):
    scores, gains, reward = random_case(seed)
    steps = np.random.default_rng(seed).permutation(9) * 10.0
    found = correlate(scores, gains, reward, steps=steps, resamples=9)
    assert found.n == 9
    expected = naive_pearson(naive_ranks(scores), naive_ranks(gains))
    assert found.spearman == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert spearman(scores, gains) == found.spearman
    partial = naive_partial(scores, gains, reward)
    assert found.partial_given_reward == pytest.approx(partial, rel=1e-10, abs=1e-12)
    partial = naive_partial(scores, gains, steps)
    assert found.partial_given_step == pytest.approx(partial, rel=1e-10, abs=1e-12)


def test_gains_by_seed_count_with_their_mean():
    scores, gains, reward = random_case(3)
    spread = np.linspace(-0.01, 0.02, 3)
    by_seed = correlate(scores, gains[:, None] + spread - spread.mean(), reward, resamples=9)
    plain = correlate(scores, gains, reward, resamples=9)
    assert by_seed.spearman == plain.spearman
    assert by_seed.partial_given_reward == plain.partial_given_reward


def test_the_test_goes_by_whether_there_is_an_order():
    rng = np.random.default_rng(0)
    scores, gains = np.cumsum(rng.normal(size=(2, 12)), axis=1)
    alone = correlate(scores, gains)
    run = correlate(scores, gains, steps=np.arange(12.0))
    assert (alone.test, run.test) == (EXCHANGEABLE, TRAJECTORY)
    assert run.p_value > alone.p_value
    shuffled = rng.permutation(12)
    again = correlate(scores[shuffled], gains[shuffled], steps=shuffled.astype(float))
    assert again == run


@pytest.mark.parametrize("kind", KINDS)
def test_the_interval_covers_the_correlation_with_expected_gains(kind):
    """Of one trajectory at several noise levels; what is noisier than that gets no interval.

    ρ of few checkpoints has few values, so that an interval of them covers 95% or more.
    """
    rng = np.random.default_rng(KINDS.index(kind))
    trials, covered, refused = 400, 0, 0
    for trial in range(trials):
        n, seeds = int(rng.choice([5, 8, 12, 20])), int(rng.choice([2, 3, 5]))
        relation, scatter = rng.choice([0.0, 0.7, 0.97]), rng.choice([0.05, 0.2, 0.4])
        scores, other = series(kind, (2, n), rng)
        truth = relation * scores + math.sqrt(1 - relation**2) * other
        sigma = scatter * truth.std() * math.sqrt(seeds)
        gains = truth[:, None] + sigma * rng.standard_normal((n, seeds))
        steps = np.arange(float(n))
        found = correlate(scores, gains, steps=steps, resamples=400, seed=trial)
        low, high = found.interval
        rho = stats.spearmanr(scores, truth).statistic
        covered += bool(low - 1e-9 <= rho <= high + 1e-9)
        refused += math.isnan(low)
    kept = trials - refused
    assert kept > 0.8 * trials
    assert stats.binomtest(covered, kept, 0.95, alternative="less").pvalue > LEVEL


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_hardly_ever_given_an_interval_that_misses(kind):
    rng = np.random.default_rng(10 + KINDS.index(kind))
    trials, given, missed = 300, 0, 0
    for trial in range(trials):
        n, scatter = int(rng.choice([5, 12, 20])), rng.choice([1.0, 3.0])
        scores, other = series(kind, (2, n), rng)
        truth = 0.97 * scores + 0.24 * other
        noise = scatter * truth.std() * math.sqrt(3) * rng.standard_normal((n, 3))
        steps = np.arange(float(n))
        found = correlate(scores, truth[:, None] + noise, steps=steps, resamples=400, seed=trial)
        low, high = found.interval
        rho = stats.spearmanr(scores, truth).statistic
        given += not math.isnan(low)
        missed += not math.isnan(low) and not low - 1e-9 <= rho <= high + 1e-9
    assert given < 0.2 * trials
    assert stats.binomtest(missed, trials, 0.05, alternative="greater").pvalue > LEVEL


def test_seeds_drawn_anew_would_count_their_scatter_twice():
    """Why the interval is no bootstrap: what that covers, on the same kind of studies."""
    rng = np.random.default_rng(0)
    trials, covered = 100, 0
    for _ in range(trials):
        scores = rng.standard_normal(12)
        gains = scores[:, None] + 0.5 * rng.standard_normal((12, 3))
        drawn = np.take_along_axis(gains[None], rng.integers(0, 3, (300, 12, 3)), 2).mean(2)
        rho = [stats.spearmanr(scores, one).statistic for one in drawn[:60]]
        covered += np.quantile(rho, 0.025) <= 1.0 <= np.quantile(rho, 0.975)
    assert covered < 0.6 * trials


@pytest.mark.parametrize(
    ("gains", "reason"),
    [
        (np.arange(6.0), "one seed does not tell how far gains scatter"),
        (np.arange(6.0)[:, None] + [0.0, 0.0], "every seed has the same gains"),
        (
            np.arange(6.0)[:, None] + np.array([4.0, -4.0]) * (-1) ** np.arange(6)[:, None],
            "seeds make more than 25% of what gains differ by",
        ),
    ],
)
def test_no_interval_that_cannot_be_defended(gains, reason):
    found = correlate(np.array([1.0, 3, 2, 5, 4, 6]), gains)
    assert math.isfinite(found.spearman)
    assert np.isnan(found.interval).all()
    assert found.reasons["interval"] == reason


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
    rng = np.random.default_rng(1)
    scores, gains = rng.normal(size=20), rng.normal(size=(20, 1)) + 0.3 * rng.normal(size=(20, 3))
    first, again = (correlate(scores, gains, seed=3) for _ in range(2))
    assert repr(first) == repr(again)
    assert correlate(scores, gains, seed=4).p_value != first.p_value


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
    numbers = [getattr(found, name) for name in FIELDS if name != "interval"]
    assert np.isnan([*numbers, *found.interval]).all()
    assert found.reasons == dict.fromkeys(FIELDS, reason)
    assert math.isnan(spearman(scores, gains))


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
    assert found.reasons["partial_given_step"] == "no steps"


def test_the_step_as_the_predictor_has_no_partial_given_itself_and_no_p_value():
    steps, gains = np.arange(6.0), vector(0.1, 0.2, 0.15, 0.3, 0.25, 0.4)
    found = correlate(steps, gains, steps=steps)
    assert found.reasons["partial_given_step"] == "scores perfectly rank-correlated with step"
    assert found.reasons["p_value"] == "equal differences along the run"
    assert math.isnan(found.p_value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: correlate(np.ones((2, 2)), np.ones(4)), r"^scores: got shape \(2, 2\); wanted"),
        (lambda: correlate(np.ones(4), np.ones(3)), r"^gains: got shape \(3,\); wanted shape \(4,"),
        (lambda: correlate(np.ones(4), np.ones((4, 0))), r"^gains: got shape \(4, 0\)"),
        (lambda: correlate(np.ones(4), np.ones(4), np.ones(5)), r"^reward_before: got shape \(5,"),
        (lambda: correlate(np.ones(4), np.ones(4), steps=np.ones(3)), r"^steps: got shape \(3,"),
        (
            lambda: correlate(np.ones(4), np.ones(4), steps=vector(1, 2, 3, math.nan)),
            r"^steps: got \[.*nan\]; wanted finite numbers",
        ),
        (
            lambda: correlate(np.ones(4), np.ones(4), confidence=1.0),
            r"^confidence: got 1.0; .*0, 1",
        ),
        (lambda: correlate(np.ones(4), np.ones(4), resamples=0), r"^resamples: got 0; .*above 0"),
    ],
)
def test_wrong_requests_name_the_argument(call, message):
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.parametrize(
    "scores",
    [
        [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        [0.5 + 1e-9 * i**1.5 for i in range(9)],
        [1e7 + i for i in range(9)],
    ],
    ids=["two values", "nearly constant", "far from 0"],
)
def test_scores_that_say_one_thing_in_two_ways_have_an_interval(scores):
    """Values and their normal scores are then the same covariate."""
    rng = np.random.default_rng(0)
    gains = np.linspace(0.1, 0.9, 9)[:, None] + 0.01 * rng.normal(size=(9, 3))
    found = correlate(np.array(scores), gains, steps=np.arange(9.0))
    assert found.interval[0] <= found.spearman <= found.interval[1] + 1e-9
