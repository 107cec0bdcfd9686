"""Laws from a predictor P to the gain: Eq. 30, gain = κ·P, and two with a constant more or a bend.

A law is judged on checkpoints that its fit has not seen. Neighbours of one run err alike, so that
of a run a checkpoint is left out with the h next to it on either side (h-block cross-validation:
Burman, Chow and Nolan 1994), h a quarter of the checkpoints: with AR(0.8) residuals of 8 to 40
checkpoints the error so found is 0.86 to 1.23 of that on a new run, 0.46 to 0.76 with h = 0.

n checkpoints · K numbers of updates
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special
from scipy.stats import rankdata

from valuegrad.study.vectors import FloatArray, is_constant, require, vector, why_undefined

MARGIN = 1e-12  # how far rewards are kept from 0 and 1, where the log-odds are infinite
TILTS = np.geomspace(1e-8, 1e3, 128)  # nats; the grid for the largest tilt of a saturating law

BLOCK = 4  # a block leaves out this part of the checkpoints on either side
LEAST_KEPT = 3  # checkpoints that a law is fitted to

Constants = tuple[float, ...]
Fit = Callable[[NDArray[np.intp]], Constants | str]  # from kept checkpoints; a str says why not
Predict = Callable[..., FloatArray]  # from constants to mean gains


@dataclass(frozen=True)
class Law:
    """A fitted law: predictions of the mean gain, with and without the checkpoint in the fit.

    `fitted` and `left_out` have shape (n,) and reward units: the fit to all checkpoints, and that
    to all but each and its `neighbours` on either side. `leave_one_out_error` is the root mean
    square of left_out − gain, and `reason` says why any of them is NaN ("" if none is).
    """

    name: str
    constants: dict[str, float]
    fitted: FloatArray
    left_out: FloatArray
    leave_one_out_error: float
    reason: str
    neighbours: int = 0  # h


def tilt(reward: FloatArray, alpha: FloatArray | float) -> FloatArray:
    """Raise the log-odds of a success probability by α.

    p e^α / (1 + p(e^α − 1)) = expit(logit p + α).

    Args:
        reward: the probabilities p in [0, 1], any shape; taken as 1e-12 from 0 and 1 at the least.
        alpha: the tilts α in nats, one number or a shape that broadcasts with the rewards.

    Returns:
        The tilted probabilities, of the common shape.

    Raises:
        UserError: a reward is outside [0, 1].

    Example:
        >>> tilt(np.array([0.5, 0.25]), np.log(3.0)).round(12)
        array([0.75, 0.5 ])
    """
    p = np.asarray(reward, dtype=np.float64)
    outside = p[(p < 0) | (p > 1)]
    fix = "rescale the rewards to probabilities"
    require(outside.size == 0, "reward", outside.tolist(), "numbers in [0, 1]", fix)
    return np.asarray(special.expit(special.logit(np.clip(p, MARGIN, 1 - MARGIN)) + alpha))


def proportional(predictor: FloatArray, gains: FloatArray, steps: FloatArray | None = None) -> Law:
    """Gain = κ·P (Eq. 30) by least squares: κ = Σ P g / Σ P², of either sign.

    ``steps`` (n,) are those of one run, None where each checkpoint is of a run of its own.
    """
    P = vector("predictor", predictor)
    g = vector("gains", gains, len(P))

    def fit(kept: NDArray[np.intp]) -> Constants | str:
        if not P[kept].any():
            return "all-zero predictor"
        return (float(P[kept] @ g[kept] / (P[kept] @ P[kept])),)

    nothing = why_undefined(P, g)
    return _law("proportional", ("kappa",), fit, lambda kappa: kappa * P, g, steps, nothing)


def affine(predictor: FloatArray, gains: FloatArray, steps: FloatArray | None = None) -> Law:
    """Gain = a + b·P by least squares: b = cov(P, g) / var(P), a = mean(g) − b mean(P).

    ``steps`` (n,) are those of one run, None where each checkpoint is of a run of its own.
    """
    P = vector("predictor", predictor)
    g = vector("gains", gains, len(P))

    def fit(kept: NDArray[np.intp]) -> Constants | str:
        if is_constant(P[kept]):
            return "constant predictor"
        centred = P[kept] - P[kept].mean()
        b = float(centred @ g[kept] / (centred @ centred))
        return float(g[kept].mean() - b * P[kept].mean()), b

    nothing = why_undefined(P, g)
    return _law("affine", ("a", "b"), fit, lambda a, b: a + b * P, g, steps, nothing)


def saturating(
    log_odds_rate: FloatArray,
    reward_before: FloatArray,
    gains_by_updates: FloatArray,
    updates: FloatArray,
    steps: FloatArray | None = None,
) -> Law:
    """Gain = tilt(R, α) − R with α = c · rate · updates, c ≥ 0, by least squares over n and K.

    The rate, shape (n,), is in nats an update, the gains are (n, K); predictions are means over K.
    ``steps`` (n,) are those of one run, None where each checkpoint is of a run of its own.
    """
    rate = vector("log_odds_rate", log_odds_rate)
    R = vector("reward_before", reward_before, len(rate))
    u = vector("updates", updates)
    fix = "pass the number of updates after which each column of gains was measured"
    valid = bool(u.size and (np.isfinite(u) & (u > 0)).all())
    require(valid, "updates", u.tolist(), "one or more finite numbers above 0", fix)
    g = np.asarray(gains_by_updates, dtype=np.float64)
    wanted, fix = f"shape {(len(rate), len(u))}", "pass one row a checkpoint, one column a budget"
    require(g.shape == (len(rate), len(u)), "gains_by_updates", f"shape {g.shape}", wanted, fix)
    outside = bool(((R < 0) | (R > 1)).any())
    nothing = why_undefined(rate, R, g) or ("reward_before outside [0, 1]" if outside else "")
    signal = rate[:, None] * u

    def predict(c: float) -> FloatArray:
        return tilt(R[:, None], c * signal) - R[:, None]

    def fit(kept: NDArray[np.intp]) -> Constants | str:
        if not signal[kept].any():
            return "all-zero log_odds_rate"

        def loss(log_c: float) -> float:
            return float(np.square(predict(math.exp(log_c))[kept] - g[kept]).sum())

        # The loss may have several minima: a grid brackets the best, and the search refines it.
        grid = np.log(TILTS / np.abs(signal[kept]).max())
        losses = [loss(log_c) for log_c in grid]
        best = int(np.argmin(losses))
        around = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
        found = optimize.minimize_scalar(loss, bounds=around, options={"xatol": 1e-10})
        if losses[-1] <= found.fun:
            return "no finite c fits best: the error falls up to the largest tilt"
        return (0.0 if loss(-math.inf) <= found.fun else math.exp(found.x),)

    mean_g = np.asarray(g.mean(axis=1))
    return _law(
        "saturating", ("c",), fit, lambda c: predict(c).mean(axis=1), mean_g, steps, nothing
    )


def _law(
    name: str,
    symbols: tuple[str, ...],
    fit: Fit,
    predict: Predict,
    gains: FloatArray,
    steps: FloatArray | None,
    nothing: str,
) -> Law:
    """The fit to all checkpoints, and to all but each block, unless there is a reason against."""
    places = None if steps is None else rankdata(vector("steps", steps, len(gains)), "ordinal")
    neighbours = 0 if places is None else len(gains) // BLOCK
    everyone, left_out = np.arange(len(gains)), np.full(len(gains), np.nan)
    found = nothing or fit(everyone)
    if isinstance(found, str):
        undefined = dict.fromkeys(symbols, math.nan)
        return Law(name, undefined, left_out, left_out.copy(), math.nan, found, neighbours)
    reason = ""
    for i in everyone:
        far = everyone != i if places is None else np.abs(places - places[i]) > neighbours
        few = f"fewer than {LEAST_KEPT} checkpoints are left"
        without = fit(everyone[far]) if far.sum() >= LEAST_KEPT else few
        if isinstance(without, str):
            reason = f"{without} without checkpoint {i}"
        else:
            left_out[i] = predict(*without)[i]
    error = float(np.sqrt(np.square(left_out - gains).mean()))
    named = dict(zip(symbols, found, strict=True))
    return Law(name, named, predict(*found), left_out, error, reason, neighbours)
