"""Permutation tests of no relation between two columns, for checkpoints with and without an order.

Checkpoints of one run are no sample: two unrelated random walks of 20 steps have a "significant"
rank correlation in 43 of 100 cases. If one of the columns is an AR(1) series with φ and shocks that
are exchangeable, its quasi-differences x_t − φ x_{t−1} are exchangeable, whatever the other column
is, and the permutation test on them is exact. φ is not known, so the p-value is the largest over
0 … 1: from independent values over AR(1) series to random walks, with drift or without.

n checkpoints · B permutations
"""

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from valuegrad.study.vectors import FloatArray, centred_ranks, is_constant

Permutations = NDArray[np.int64]

AUTOCORRELATIONS = np.linspace(0, 1, 11)  # φ
DIGITS = 9  # to which differences count as tied, in units of the largest value

EXCHANGEABLE = "permutations of checkpoints"
TRAJECTORY = "permutations of quasi-differences in order of training, largest p over φ = 0 … 1"


def exchangeable_p_value(
    x: FloatArray, y: FloatArray, resamples: int, rng: np.random.Generator
) -> float:
    """Two-sided p-value (twice the smaller tail) of Spearman's ρ; exact where n! ≤ resamples."""
    return _p_value(x, y, *_permutations(len(x), resamples, rng))


def trajectory_p_value(
    x: FloatArray, y: FloatArray, resamples: int, rng: np.random.Generator
) -> float:
    """The largest p-value of the quasi-differences over φ; NaN if these are all equal for one.

    The columns stand in order of training. At most `level` of unrelated pairs come to a p-value of
    `level`, if one of the two is an AR(1) series with any φ from 0 to 1.
    """
    tested = _permutations(len(x) - 1, resamples, rng)
    x, y = (z - z.mean() for z in (x, y))
    x, y = (z / (np.abs(z).max() or 1.0) for z in (x, y))
    largest = 0.0
    for phi in AUTOCORRELATIONS:
        u, v = (np.round(z[1:] - phi * z[:-1], DIGITS) for z in (x, y))
        if is_constant(u) or is_constant(v):
            return math.nan
        largest = max(largest, _p_value(u, v, *tested))
    return largest


def _permutations(n: int, resamples: int, rng: np.random.Generator) -> tuple[Permutations, bool]:
    """Permutations of 0 … n − 1, and whether they are all of them."""
    if math.factorial(n) <= resamples:
        return np.array(list(itertools.permutations(range(n)))), True
    return rng.permuted(np.tile(np.arange(n), (resamples, 1)), axis=1), False


def _p_value(x: FloatArray, y: FloatArray, permutations: Permutations, exact: bool) -> float:
    u, v = centred_ranks(x), centred_ranks(y)
    null_B, observed = v[permutations] @ u, float(u @ v)  # whole numbers: ties are ties
    count = len(null_B) + (not exact)  # what was observed is one of the permutations
    tails = [int((sign * null_B >= sign * observed).sum()) + (not exact) for sign in (1, -1)]
    return min(1.0, 2 * min(tails) / count)
