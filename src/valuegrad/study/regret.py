"""What is lost by the checkpoint that a predictor chooses (Eq. 31), without a winner's curse.

n checkpoints · S seeds
"""

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from valuegrad.study.vectors import FloatArray, by_seed, vector

MOST_SPLITS = 1000


def regret(scores: FloatArray, gains: FloatArray, *, seed: int = 0) -> float:
    """The gain lost by N*, the argmax of the score (Eq. 31), in reward units.

    The highest of noisy mean gains is too high, so that max_i g_i − g_N* is above 0 even for a
    perfect choice. Instead one half of the seeds says which checkpoint is the best and the other
    half what it gains; all splits are averaged (1,000 of them where there are more). This is what
    choosing by RL runs with half the seeds would gain over N*, without bias (of an odd number S the
    mean over (S − 1)/2 and (S + 1)/2 of them): less than 0 where N* is better than that.

    Args:
        scores: the predictor, shape (n,). Tied checkpoints count with their mean gain, a NaN is
            never chosen.
        gains: by seed, shape (n, S).
        seed: chooses splits where there are too many.

    Returns:
        The regret; NaN with fewer than two seeds, with a NaN gain and without any score.

    Example:
        >>> gains = np.array([[0.1, 0.1], [0.3, 0.2], [0.2, 0.3]])
        >>> round(regret(np.array([1.0, 0.0, 0.0]), gains), 12)
        0.1
    """
    s = vector("scores", scores)
    g = by_seed("gains", gains, len(s))
    if np.isnan(s).all() or not np.isfinite(g).all() or g.shape[1] < 2:
        return math.nan
    chosen, lost = s == np.nanmax(s), []
    for half, other in _splits(g.shape[1], seed):
        mean = g[:, other].mean(1)
        lost.append(mean[_best(g[:, half])].mean() - mean[chosen].mean())
    return float(np.mean(lost))


def _best(gains: FloatArray) -> NDArray[np.bool_]:
    """Which checkpoints have the highest mean gain."""
    mean = gains.mean(1)
    return np.asarray(mean == mean.max())


def _splits(count: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Halves of so many seeds and what they leave, both roles for each split."""
    half = count // 2
    if math.comb(count, half) <= MOST_SPLITS:
        chosen = [list(found) for found in itertools.combinations(range(count), half)]
    else:
        rng = np.random.default_rng(seed)
        chosen = [rng.choice(count, half, replace=False).tolist() for _ in range(MOST_SPLITS)]
    pairs = [(part, [i for i in range(count) if i not in part]) for part in chosen]
    return pairs + [(other, part) for part, other in pairs]
