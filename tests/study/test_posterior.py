"""Posterior draws against the normal posterior written out over the same grid."""

import numpy as np
import pytest
from scipy import stats

from valuegrad.study import posterior
from valuegrad.study.posterior import posterior_draws

LEVEL = 1e-3
X = np.array([0.3, 1.9, 2.2, 5.0])
C = np.array([[1.0, 0.4, 0.2, 0.0], [0.4, 1.5, 0.3, 0.1], [0.2, 0.3, 0.8, 0.2], [0, 0.1, 0.2, 1.0]])
FREEDOM = 9.0


def dense_moments(covariates, places):
    """Mean and covariance of the posterior by dense algebra, cell by cell."""
    n = len(X)
    design = np.stack([np.ones(n), *covariates], axis=1)
    pairs = [(i, j) for i in range(n) for j in range(i)]
    error = np.mean([(C[i, i] + C[j, j] - 2 * C[i, j]) / 2 for i, j in pairs])
    logs, means, seconds = [], [], []
    for phi in posterior.SMOOTHNESS if places is not None else [0.0]:
        at = np.arange(n) if places is None else np.argsort(np.argsort(places))
        K = np.array([[float(phi) ** abs(int(a - b)) for b in at] for a in at])
        K = K / np.mean([1 - K[i, j] for i, j in pairs])
        for level in posterior.SCALES:
            noise = C * FREEDOM / stats.chi2.ppf(level, FREEDOM)
            for spread in posterior.SPREADS:
                prior = spread**2 * error * K
                # A flat coefficient is one of a very large variance.
                wide = 1e6 * design @ design.T
                V = prior + noise + wide
                W = np.linalg.inv(V)
                half_cauchy = spread / (posterior.TYPICAL_SPREAD**2 + spread**2)
                logs.append(np.log(half_cauchy) + stats.multivariate_normal(cov=V).logpdf(X))
                whole = prior + wide
                means.append(whole @ W @ X)
                seconds.append(whole - whole @ W @ whole)
    weights = np.exp(np.array(logs) - max(logs))
    weights /= weights.sum()
    mean = np.einsum("t,tn->n", weights, means)
    second = np.einsum(
        "t,tnm->nm", weights, np.array(seconds) + np.einsum("tn,tm->tnm", means, means)
    )
    return mean, second - np.outer(mean, mean)


@pytest.mark.parametrize("covariates", [[], [np.array([-1.0, 0.5, 0.0, 2.0])]])
@pytest.mark.parametrize("places", [None, np.array([3.0, 1.0, 2.0, 9.0])])
def test_draws_have_the_moments_of_the_posterior(covariates, places):
    mean, covariance = dense_moments(covariates, places)
    draws = 40000
    found = posterior_draws(
        X, C, freedom=FREEDOM, covariates=covariates, places=places, draws=draws, seed=0
    )
    z = (found.mean(0) - mean) / np.sqrt(np.diag(covariance) / draws)
    assert (np.abs(z) < stats.norm.isf(LEVEL / 2)).all()
    off = found - mean
    products = off[:, :, None] * off[:, None, :]
    z = (products.mean(0) - covariance) / (products.std(0) / np.sqrt(draws))
    assert (np.abs(z) < stats.norm.isf(LEVEL / 2)).all()


def test_what_is_measured_without_error_is_true():
    shared = np.ones((3, 3))  # an error that all have in common: differences are certain
    for error in (np.zeros((3, 3)), shared):
        found = posterior_draws(np.arange(3.0), error, freedom=5.0, draws=10)
        np.testing.assert_array_equal(found, np.tile(np.arange(3.0), (10, 1)))
    assert (
        posterior_draws(np.ones(1), np.ones((1, 1)), freedom=5.0, draws=3).tolist() == [[1.0]] * 3
    )


def test_a_covariance_of_fewer_prompts_than_checkpoints_will_do():
    rng = np.random.default_rng(0)
    singular = np.cov(rng.normal(size=(6, 3)))
    found = posterior_draws(rng.normal(size=6), singular, freedom=2.0, draws=100)
    assert np.isfinite(found).all()


def test_units_and_order_are_no_matter():
    found = posterior_draws(X, C, freedom=FREEDOM, draws=200)
    scaled = posterior_draws(1e-6 * X - 3e-5, 1e-12 * C, freedom=FREEDOM, draws=200)
    np.testing.assert_allclose(scaled, 1e-6 * found - 3e-5, rtol=1e-6, atol=1e-12)
    places = np.array([10.0, 20.0, 30.0, 40.0])
    once = posterior_draws(X, C, freedom=FREEDOM, places=places, draws=200)
    again = posterior_draws(X, C, freedom=FREEDOM, places=places**2, draws=200)
    np.testing.assert_array_equal(once, again)
