"""The mixing distribution of success probabilities, and what is expected over it."""

import numpy as np
import pytest
from scipy.stats import binom
from tests import oracles

from valuegrad.errors import UserError
from valuegrad.impact import mixing as module
from valuegrad.impact.mixing import mixing, pseudo_values
from valuegrad.impact.signal_slopes import inverse_deviation

N = 32


def log_likelihood(fit, counts):
    return sum(np.log(binom.pmf(k, N, fit.grid) @ fit.weights) for k in counts)


def expected_counts(p, weights, prompts=20000):
    """Counts as often as a mixture of success probabilities makes them, without noise."""
    k = np.arange(N + 1)
    return np.repeat(k, np.round(prompts * binom.pmf(k[:, None], N, p) @ weights).astype(int))


def test_the_likelihood_never_falls(monkeypatch):
    counts = np.array([0, 0, 0, 1, 3, 9, 17, 30, 32, 32])
    found = []
    for steps in (0, 1, 2, 3, 5, 10, 50, 200, 1000):
        monkeypatch.setattr(module, "ITERATIONS", steps)
        fit = mixing(counts, N)
        assert fit.weights.sum() == pytest.approx(1, abs=1e-9)
        np.testing.assert_allclose(fit.posterior.sum(1), 1, rtol=1e-12)
        assert (fit.posterior >= 0).all()
        found.append(log_likelihood(fit, counts))
    assert (np.diff(found) >= -1e-9).all()
    assert found[-1] > found[0] + 1
    # Of every distribution the likeliest: no share moved to one point would raise it (Lindsay).
    density = binom.pmf(counts[:, None], N, fit.grid)
    gradient = (density / (density @ fit.weights)[:, None]).sum(0) / len(counts)
    assert gradient.max() < 1.02


def test_two_points_are_recovered(monkeypatch):
    # The shares of neighbouring points are told apart slowly.
    monkeypatch.setattr(module, "ITERATIONS", 40000)
    fit = mixing(expected_counts(np.array([0.1, 0.7]), np.array([0.6, 0.4])), N)
    near = [fit.weights[abs(fit.grid - p) < 0.03].sum() for p in (0.1, 0.7)]
    assert near == pytest.approx([0.6, 0.4], abs=0.02)
    for f in (lambda p: np.log1p(p * np.expm1(5)) / 5 - p, inverse_deviation):
        truth = float(f(np.array([0.1, 0.7])) @ [0.6, 0.4])
        with np.errstate(divide="ignore"):
            assert fit.expected(f(fit.grid)).mean() == pytest.approx(truth, rel=1e-3)
    # What is known of one prompt is Bayes' rule with the fitted shares.
    assert fit.expected(fit.grid)[0] == pytest.approx(0.1, abs=0.02)
    assert fit.expected(fit.grid)[-1] == pytest.approx(0.7, abs=0.02)


def test_expectations_keep_the_mean_reward():
    """At the likeliest mixture Σ E[p | k] = Σ k/n, prompts without success have more than 0."""
    counts = np.array([0] * 30 + [1, 2, 0, 5, 31, 32])
    fit = mixing(counts, N)
    p = fit.expected(fit.grid)
    assert p.mean() == pytest.approx(counts.mean() / N, rel=2e-3)
    assert 0 < p[0] < 1 / N


def test_pseudo_values_are_the_jackknife_with_the_fit_redone():
    counts = np.array([0, 0, 1, 3, 3, 8, 20, 32])

    def rows_of(fit):
        return fit.expected(np.log1p(fit.grid * np.expm1(5)) / 5 - fit.grid)

    found = pseudo_values(counts, N, rows_of)
    error = found.std(ddof=1) / len(counts) ** 0.5
    jackknife = oracles.jackknife(
        lambda kept: float(rows_of(mixing(counts[kept], N)).mean()), len(counts)
    )
    # EM goes on from the whole fit for a tenth of its steps, which leaves 2% of the error.
    assert error == pytest.approx(jackknife, rel=0.03)
    assert pseudo_values(np.array([3]), N, rows_of).shape == (1,)


@pytest.mark.parametrize("rollouts", [32, 128, 512])
@pytest.mark.parametrize("odd", [0, 1])
def test_a_count_that_the_rest_rules_out_leaves_finite_values(rollouts, odd):
    """Left out, the one prompt that is always right has no likelihood under what remains."""
    counts = np.array([0] * 31 + [rollouts]) if odd else np.array([rollouts] * 31 + [0])
    found = pseudo_values(counts, rollouts, lambda fit: fit.expected(fit.grid))
    assert np.isfinite(found).all()
    fit = mixing(counts, rollouts, start=mixing(counts, rollouts), without=int(counts[-1]))
    np.testing.assert_allclose(fit.posterior.sum(1), 1, rtol=1e-12)


@pytest.mark.parametrize("counts", [[], [-1, 2], [33]])
def test_counts_out_of_range_are_refused(counts):
    with pytest.raises(UserError, match="successes: got"):
        mixing(np.array(counts, dtype=int), N)
