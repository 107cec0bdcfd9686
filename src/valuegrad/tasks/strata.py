"""Strata of prompts: cells that a generated task holds in fixed shares, such as template × label.

A mean over a stratified sample is surer than one over as many independent draws: what differs
between strata is no error. Its variance is Σ_h (N_h/N)² s_h²/N_h (Cochran 1977, section 5.3).

N prompts · H strata
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

LEAST = 2
"""Prompts that a stratum needs to show its own spread."""


def strata_codes(names: Sequence[str] | None, count: int) -> Int[np.ndarray, " N"]:
    """The number, from 0, of each prompt's stratum, every one of at least two prompts.

    Strata of one prompt are put together (collapsed strata: what differs between them then counts
    as error, so that this errs to the safe side), one left over goes to the smallest other. Without
    names all prompts are one stratum.

    Example:
        >>> strata_codes(["a", "b", "a", "c", "d"], 5).tolist()
        [0, 1, 0, 1, 1]
        >>> strata_codes(["a", "a", "a", "c"], 4).tolist()
        [0, 0, 0, 0]
    """
    if names is None:
        return np.zeros(count, dtype=np.int64)
    _, codes, sizes = np.unique(np.asarray(names), return_inverse=True, return_counts=True)
    alone = sizes < LEAST
    if alone.any():
        others = np.flatnonzero(~alone)
        small = others[np.argsort(sizes[others], kind="stable")]
        if alone.sum() == 1:
            alone[small[:1]] = True
        codes = np.where(alone[codes], len(sizes), codes)
    return np.unique(codes, return_inverse=True)[1].astype(np.int64)


def mean_covariance(
    rows: Float[np.ndarray, "n N"], codes: Int[np.ndarray, " N"]
) -> NDArray[np.float64]:
    """The joint covariance (n, n) of n means over the same N prompts, stratified.

    Σ_h (N_h/N)² S_h / N_h, S_h the covariance matrix within stratum h: what resampling the same
    prompts for all of them, by stratum, comes to. NaN with fewer than two prompts.

    Example:
        >>> rows = np.array([[0.0, 2.0, 10.0, 12.0]])
        >>> mean_covariance(rows, np.array([0, 0, 1, 1])).item()
        0.5
    """
    count = rows.shape[1]
    if count < LEAST:
        return np.full((len(rows), len(rows)), np.nan)
    total = np.zeros((len(rows), len(rows)))
    for h in range(int(codes.max()) + 1):
        inside = rows[:, codes == h]
        total += inside.shape[1] * np.atleast_2d(np.cov(inside))
    return np.asarray(total / count**2)
