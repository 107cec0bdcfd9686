"""Which checkpoint is the best, and how sure that is: prompts are shared by all checkpoints.

n checkpoints · N held-out prompts · B draws
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from valuegrad.study.correlation import CONFIDENCE
from valuegrad.study.posterior import posterior_draws
from valuegrad.study.vectors import FloatArray, require, vector
from valuegrad.tasks.strata import mean_covariance, strata_codes

DRAWS = 20000


@dataclass(frozen=True, eq=False)
class JointError:
    """The errors of n means: their covariance (n, n), and the degrees of freedom it rests on."""

    covariance: FloatArray
    freedom: float


def shared_prompts(rows: FloatArray, strata: Sequence[str] | None = None) -> JointError:
    """The error of means over the same prompts, which are resampled for all checkpoints at once.

    A prompt that is easy for one checkpoint is easy for the next, so that differences are surer
    than either mean. The update of each checkpoint is given: its training prompts are no part of
    the error.

    Args:
        rows: a number a checkpoint and held-out prompt, shape (n, N).
        strata: the stratum of each prompt; None for one.

    Example:
        >>> shared = shared_prompts(np.array([[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]]))
        >>> shared.covariance.round(3).tolist()  # the difference is certain
        [[0.333, 0.333], [0.333, 0.333]]
    """
    codes = strata_codes(strata, rows.shape[1])
    return JointError(mean_covariance(rows, codes), float(rows.shape[1] - codes.max() - 1))


def independent(standard_errors: FloatArray, freedom: float) -> JointError:
    """Errors of which nothing is known but their sizes; one that is NaN counts as 0."""
    errors = vector("standard_errors", standard_errors)
    errors = np.where(np.isnan(errors), 0.0, errors)
    valid = bool((np.isfinite(errors) & (errors >= 0)).all())
    wanted, fix = "finite numbers of at least 0, or NaN", "pass the square roots of the variances"
    require(valid, "standard_errors", errors.tolist(), wanted, fix)
    return JointError(np.diag(errors**2), freedom)


def true_draws(
    values: FloatArray,
    error: JointError,
    places: FloatArray | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> FloatArray:
    """Draws of the true values from their posterior, shape (draws, n); −inf where NaN was measured.

    Args:
        values: the measured means, shape (n,).
        error: their joint error.
        places: where each checkpoint stands in one run; None without an order.
        draws: how many.
        seed: of the draws.
    """
    x = vector("values", values)
    fits = error.covariance.shape == (len(x), len(x))
    wanted = f"shape {(len(x), len(x))}"
    require(fits, "error", f"shape {error.covariance.shape}", wanted, "pass one row a checkpoint")
    require(draws > 0, "draws", draws, "a whole number above 0", "use the default")
    if np.isnan(error.covariance).all():
        # One prompt does not tell how far others are from it.
        return np.full((draws, len(x)), -np.inf)
    known = np.flatnonzero(~np.isnan(x))
    drawn_Bn = np.full((draws, len(x)), -np.inf)
    if len(known):
        drawn_Bn[:, known] = posterior_draws(
            x[known],
            np.nan_to_num(error.covariance[np.ix_(known, known)]),
            freedom=error.freedom,
            places=None if places is None else places[known],
            draws=draws,
            seed=seed,
        )
    return drawn_Bn


def best_probability(drawn_Bn: FloatArray) -> FloatArray:
    """The share of draws in which each checkpoint is the best; m tied count 1/m each.

    One draw more stands for all checkpoints alike: no number of draws makes anything certain. All
    NaN if no value is known.
    """
    known_n = np.isfinite(drawn_Bn).all(axis=0)
    if not known_n.any():
        return np.full(drawn_Bn.shape[1], np.nan)
    best_Bn = drawn_Bn == drawn_Bn.max(axis=1, keepdims=True)
    shares_n = (best_Bn / best_Bn.sum(axis=1, keepdims=True)).sum(axis=0)
    return np.asarray((shares_n + known_n / known_n.sum()) / (len(drawn_Bn) + 1))


def rank_intervals(drawn_Bn: FloatArray, confidence: float = CONFIDENCE) -> FloatArray:
    """Lowest and highest rank (1 = best, ties by mid-ranks), shape (n, 2); NaN where unknown.

    The (1 ± confidence)/2 quantiles of the ranks in the draws.
    """
    require(0 < confidence < 1, "confidence", confidence, "inside (0, 1)", "use the default")
    levels = [(1 - confidence) / 2, (1 + confidence) / 2]
    ranks_Bn = stats.rankdata(-drawn_Bn, axis=1)
    intervals = np.quantile(ranks_Bn, levels, axis=0, method="inverted_cdf").T
    unknown_n = np.asarray(np.isneginf(drawn_Bn).all(axis=0))
    return np.where(unknown_n[:, None], np.nan, intervals)
