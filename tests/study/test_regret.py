"""Regret by halves of the seeds: by loops, and without the bias of the highest of noisy gains."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from valuegrad.errors import UserError
from valuegrad.study.regret import MOST_SPLITS, regret


def by_loops(scores, gains):
    n, count = gains.shape
    chosen = max(range(n), key=lambda i: scores[i])
    losses = []
    for size in {count // 2, count - count // 2}:
        for half in itertools.combinations(range(count), size):
            other = [k for k in range(count) if k not in half]
            best = max(range(n), key=lambda i: sum(gains[i, k] for k in half))
            losses.append(sum(gains[best, k] - gains[chosen, k] for k in other) / len(other))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("seeds", [2, 3, 4, 5])
def test_every_split_of_the_seeds_counts_alike(seeds):
    rng = np.random.default_rng(seeds)
    scores, gains = rng.normal(size=6), rng.normal(size=(6, seeds))
    assert regret(scores, gains) == pytest.approx(by_loops(scores, gains), rel=1e-12)


def test_a_choice_that_every_half_confirms_loses_nothing():
    gains = np.array([[0.1, 0.2, 0.15], [0.4, 0.5, 0.45], [0.3, 0.2, 0.1]])
    assert regret(np.array([1.0, 5.0, 2.0]), gains) == 0.0
    assert regret(np.array([7.0, 5.0, 2.0]), gains) == pytest.approx(0.3, rel=1e-12)
    assert regret(np.array([7.0, 5.0, 7.0]), gains) == pytest.approx(0.275, rel=1e-12)
    assert regret(np.array([math.nan, 5.0, 2.0]), gains) == 0.0


def test_undefined_without_a_second_seed_a_gain_or_a_score():
    scores, gains = np.array([7.0, 5.0]), np.array([[0.1, 0.2], [0.3, 0.4]])
    assert math.isnan(regret(scores, gains[:, 0]))
    assert math.isnan(regret(scores, gains[:, :1]))
    assert math.isnan(regret(np.full(2, math.nan), gains))
    assert math.isnan(regret(scores, np.array([[0.1, math.nan], [0.3, 0.4]])))
    with pytest.raises(UserError, match=r"^gains: got shape \(3, 2\); wanted shape \(2,\) or"):
        regret(scores, np.ones((3, 2)))


def test_where_there_are_too_many_splits_some_are_drawn():
    gains = np.random.default_rng(0).normal(size=(4, 14))
    assert math.comb(14, 7) > MOST_SPLITS
    scores = np.arange(4.0)
    assert regret(scores, gains) == regret(scores, gains)
    assert abs(regret(scores, gains) - regret(scores, gains, seed=1)) < 0.05


def test_choosing_right_loses_nothing_on_average_where_the_highest_mean_says_it_does():
    rng = np.random.default_rng(0)
    trials, n, seeds = 2000, 10, 4
    truth = np.linspace(0, 1, n)
    gains = truth[:, None] + rng.normal(size=(trials, n, seeds))
    means = gains.mean(2)
    old = means.max(1) - means[:, -1]
    new = np.array([regret(truth, found) for found in gains])
    # What choosing by half the seeds is worth, from halves that are drawn anew.
    halves = truth + rng.normal(size=(20 * trials, n)) / math.sqrt(seeds / 2)
    expected = (truth[halves.argmax(1)] - truth[-1]).mean()
    z = (new.mean() - expected) / (new.std() / math.sqrt(trials))
    assert abs(z) < stats.norm.isf(5e-4)
    assert expected < 0 < 0.2 < old.mean()
