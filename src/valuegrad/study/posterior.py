"""What true values of checkpoints are likely, given measured ones and their joint error.

The model: true values μ = Xβ + u are measured as x = μ + e, with e ~ N(0, s²C), C known and s² up
to its degrees of freedom, β flat and u ~ N(0, τ²K_φ). K_φ is the covariance of an AR(1) process
along the order of training, φ = 0 where there is none, scaled so that two checkpoints differ by
2τ² in the mean square. s, τ and φ are averaged over, on grids. Checkpoints that differ by no more
than the error are so drawn towards each other (Efron and Morris 1973): the highest of several noisy
numbers is too high, and without this what is called 90% sure is true 70% of the time.

n checkpoints · B draws · P columns of X · T cells of the grid of s² and τ
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from valuegrad.study.vectors import FloatArray

SMOOTHNESS = (0.0, 0.5, 0.8, 0.95, 0.99)  # φ
SPREADS = np.geomspace(0.02, 50.0, 26)  # τ in units of the error
TYPICAL_SPREAD = 1.0  # in the same units: the median of τ's half-Cauchy prior (Gelman 2006)
SCALES = (np.arange(7) + 0.5) / 7  # levels of the quantiles that stand for s²
TINY = 1e-12  # of the error: what keeps the logarithm of a certain difference finite


def posterior_draws(
    values: FloatArray,
    covariance: FloatArray,
    *,
    freedom: float,
    covariates: Sequence[FloatArray] = (),
    places: FloatArray | None = None,
    draws: int,
    seed: int = 0,
) -> FloatArray:
    """Draw true values from their posterior.

    Args:
        values: the measured x, shape (n,).
        covariance: C of their errors, shape (n, n); where it is 0 the values are returned.
        freedom: degrees of freedom that C was estimated with.
        covariates: columns of X beside the constant, each of shape (n,).
        places: where each checkpoint stands in the order of training, shape (n,); None for none.
        draws: how many.
        seed: of the draws.

    Returns:
        Values in the unit of x, shape (draws, n).

    Example:
        >>> found = posterior_draws(np.array([0.0, 3.0]), np.eye(2), freedom=1e6, draws=20000)
        >>> bool(0 < found.mean(0)[0] < found.mean(0)[1] < 3)  # drawn towards each other
        True
    """
    x, C = np.asarray(values, dtype=np.float64), np.asarray(covariance, dtype=np.float64)
    n, rng = len(x), np.random.default_rng(seed)
    error = (np.trace(C) - C.sum() / n) / (n - 1) if n > 1 else 0.0  # of a difference, squared, / 2
    if not error > 0:
        return np.tile(x, (draws, 1))
    X_nP = np.stack([np.ones(n), *covariates], axis=1)
    tau2, s2 = (part.ravel() for part in np.meshgrid(error * SPREADS**2, _scales(freedom)))
    prior_T = np.log(SPREADS / (TYPICAL_SPREAD**2 + SPREADS**2))
    bases = [_basis(K, C) for K in _kernels(n, places)]
    logs = [np.tile(prior_T, len(SCALES)) + _fit(x, X_nP, *basis, tau2, s2)[0] for basis in bases]
    weights = np.exp(np.stack(logs) - np.max(logs))
    counts = rng.multinomial(draws, (weights / weights.sum()).ravel()).reshape(weights.shape)
    found = []
    for (root, noise, logdet), count_T in zip(bases, counts, strict=True):
        cell_B = np.repeat(np.arange(len(count_T)), count_T)
        t2, sigma2 = tau2[cell_B, None], s2[cell_B, None] * noise
        # Matheron's rule: what was drawn from the prior, moved by how far its measurement is off.
        u_Bn = np.sqrt(t2) * rng.standard_normal((len(cell_B), n))
        e_Bn = np.sqrt(sigma2) * rng.standard_normal((len(cell_B), n))
        _, X_, information = _fit(x, X_nP, root, noise, logdet, tau2, s2)
        off_Bn = np.linalg.solve(root, x) - u_Bn - e_Bn
        d_Bn = t2 + sigma2
        beta_BP = np.linalg.solve(information[cell_B], ((off_Bn / d_Bn) @ X_)[..., None])[..., 0]
        line_Bn = beta_BP @ X_.T
        found.append((u_Bn + line_Bn + t2 / d_Bn * (off_Bn - line_Bn)) @ root.T)
    return np.concatenate(found)


def _scales(freedom: float) -> FloatArray:
    """Equally likely s², given that C was estimated with so many degrees of freedom."""
    return np.asarray(freedom / stats.chi2.ppf(SCALES, freedom))


def _kernels(n: int, places: FloatArray | None) -> list[FloatArray]:
    """K for every φ."""
    if places is None:
        return [np.eye(n)]
    order = stats.rankdata(places, method="ordinal")
    powers = [np.power(phi, np.abs(order[:, None] - order)) for phi in SMOOTHNESS]
    return [K * ((n - 1) / (n - K.sum() / n)) for K in powers]


def _basis(K: FloatArray, C: FloatArray) -> tuple[FloatArray, FloatArray, float]:
    """A with A Aᵀ = K and A diag(c) Aᵀ = C, the c, and log det K: all cells are diagonal there."""
    lower = np.linalg.cholesky(K)
    half = np.linalg.solve(lower, C)
    noise, rotation = np.linalg.eigh(np.linalg.solve(lower, half.T))
    noise = np.clip(noise, TINY * noise.max(), None)
    return lower @ rotation, noise, 2 * float(np.log(np.diag(lower)).sum())


def _fit(
    x: FloatArray,
    X_nP: FloatArray,
    root: FloatArray,
    noise: FloatArray,
    logdet: float,
    tau2: FloatArray,
    s2: FloatArray,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Log likelihood of each cell, β averaged over; X in the basis; the information on β."""
    x_, X_ = np.linalg.solve(root, x), np.linalg.solve(root, X_nP)
    d_Tn = tau2[:, None] + s2[:, None] * noise
    information = np.einsum("np,tn,nq->tpq", X_, 1 / d_Tn, X_)
    score = (x_ / d_Tn) @ X_
    beta = np.linalg.solve(information, score[..., None])[..., 0]
    quadratic = (x_**2 / d_Tn).sum(1) - (score * beta).sum(1)
    determinants = np.log(d_Tn).sum(1) + logdet + np.linalg.slogdet(information)[1]
    return np.asarray(-0.5 * (quadratic + determinants)), np.asarray(X_), np.asarray(information)
