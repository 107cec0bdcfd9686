"""How often prompts are answered right, from a few completions of each: the mixing distribution.

k of n rollouts of a prompt earn 1; the success probability p differs between prompts. Functions of
p such as the headroom or 1/σ bend where p is below 1/n, so that their value at k/n is far off on
average. The distribution of p over prompts is known much better than any one p: its nonparametric
maximum likelihood (Kiefer and Wolfowitz 1956) gives every function its expectation given k.

N prompts · P grid points · K distinct functions
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from valuegrad.errors import UserError

FloatArray = np.ndarray
ITERATIONS = 2000
POINTS = 241


@dataclass(frozen=True, eq=False)
class Mixing:
    """Success probabilities of prompts, given their counts; made by `mixing`.

    Attributes:
        grid: values that p may have, in [0, 1].
        weights: their shares over prompts.
        posterior: of each prompt the probability of each value, given its count.
    """

    grid: FloatArray
    weights: FloatArray
    posterior: FloatArray

    def expected(self, values: FloatArray) -> FloatArray:
        """E[f(p) | k] of each prompt, from f at each grid point (infinite where p is ruled out)."""
        return np.asarray(np.where(self.posterior > 0, self.posterior * values, 0.0).sum(1))


def mixing(
    successes: FloatArray, rollouts: int, *, start: Mixing | None = None, without: int | None = None
) -> Mixing:
    """Fit the distribution of success probabilities over prompts to counts, by EM.

    Args:
        successes: k of each prompt.
        rollouts: n, completions of each prompt.
        start: a fit to nearly the same counts to go on from.
        without: a count of which one prompt is left out of the fit, though not of its posterior.

    Returns:
        The fit.

    Raises:
        UserError: no counts, or counts out of range.

    Example:
        >>> fit = mixing(np.array([0, 0, 4, 4]), 4)
        >>> round(float(fit.expected(fit.grid).mean()), 3)
        0.5
    """
    counts = np.asarray(successes)
    if not len(counts) or rollouts < 1 or counts.min() < 0 or counts.max() > rollouts:
        got, wanted = f"{counts.tolist()[:8]} of {rollouts}", "counts from 0 to the rollouts"
        raise UserError("successes", got, wanted, "pass how many rollouts of each prompt earn 1")
    # Even in log-odds: as fine near 0 as near 1. Points beyond what n·N draws can tell are useless.
    edge = np.log(4.0 * rollouts * len(counts))
    inner = 1 / (1 + np.exp(-np.linspace(-edge, edge, POINTS)))
    grid = np.concatenate(([0.0], inner, [1.0]))
    values, which = np.unique(counts, return_inverse=True)
    shares = np.bincount(which).astype(float)
    shares[values == without] -= 1
    shares /= shares.sum()
    likelihood = np.asarray(binom.pmf(values[:, None], rollouts, grid[None]))
    weights = np.full(len(grid), 1 / len(grid)) if start is None else start.weights
    kept, seen = shares[shares > 0], likelihood[shares > 0]
    for _ in range(ITERATIONS if start is None else ITERATIONS // 10):
        # Multiplicative, so that a whole step is two products with the likelihood.
        weights = weights * ((kept / (seen @ weights)) @ seen)
    joint = likelihood * weights
    # A count left out of the fit may be impossible under it: then every p was as likely before.
    joint = np.where(joint.sum(1, keepdims=True) > 0, joint, likelihood)
    posterior = joint / joint.sum(1, keepdims=True)
    return Mixing(grid, weights, posterior[which])


def pseudo_values(
    successes: FloatArray, rollouts: int, rows_of: Callable[[Mixing], FloatArray]
) -> FloatArray:
    """Jackknife pseudo-values of a mean over prompts that rests on the fit to all of them.

    N T − (N − 1) T_{−q} of each prompt q, T_{−q} with q left out of fit and mean: their standard
    error is that of the mean, the fit's own uncertainty included.
    """
    counts = np.asarray(successes)
    fit = mixing(counts, rollouts)
    found = rows_of(fit).copy()
    total = found.sum()
    for k in np.unique(counts) if len(counts) > 1 else ():
        rows = rows_of(mixing(counts, rollouts, start=fit, without=int(k)))
        chosen = counts == k
        found[chosen] = total - (rows.sum() - rows[chosen])
    return found
