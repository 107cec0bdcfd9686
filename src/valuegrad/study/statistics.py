"""How well a predictor ranks checkpoints by their gain, and how sure that ranking (Eq. 31) is.

What is undefined is NaN, never a number.

n checkpoints · B resamples or draws
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from valuegrad.errors import UserError

MIN_CHECKPOINTS = 4
MAX_CONSTANT_RESAMPLES = 0.05
CONFIDENCE = 0.95
DRAWS = 20000
NO_INTERVAL = (math.nan, math.nan)

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Correlation:
    """A rank correlation over n checkpoints; `reasons` says, by field, why a value is NaN.

    Its one other key, `resamples`, says how many bootstrap resamples were dropped, if any.
    """

    spearman: float
    interval: tuple[float, float]
    p_value: float
    partial_given_reward: float
    n: int
    reasons: dict[str, str]


def correlate(
    scores: FloatArray,
    gains: FloatArray,
    reward_before: FloatArray | None = None,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = 9999,
    seed: int = 0,
) -> Correlation:
    """Correlate a predictor with the gain by ranks, with its uncertainty over checkpoints.

    ρ = corr(rank s, rank g), ties by mid-ranks; given the reward R,
    ρ_sg·R = (ρ_sg − ρ_sR ρ_gR) / sqrt((1 − ρ_sR²)(1 − ρ_gR²)).

    Args:
        scores: the predictor, shape (n,), any unit.
        gains: the measured gains, shape (n,), reward units.
        reward_before: the rewards before RL, shape (n,), reward units; None skips the partial.
        confidence: the level of the bootstrap interval, inside (0, 1).
        resamples: bootstrap resamples, and permutations where there are more than this; else the
            p-value is exact.
        seed: of the resamples and permutations.

    Returns:
        ρ, its percentile bootstrap interval, the two-sided permutation p-value (twice the smaller
        tail) and the partial ρ. What is undefined is NaN, with its reason.

    Raises:
        UserError: a shape, the confidence or the number of resamples is wrong.

    Example:
        >>> scores = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
        >>> found = correlate(scores, np.array([0.1, 0.2, 0.4, 0.3, 0.5]))
        >>> round(found.spearman, 12), round(found.p_value, 12)  # exact: twice 5 of 120
        (0.9, 0.083333333333)
        >>> correlate(scores, np.ones(5)).reasons["spearman"]
        'constant input'
    """
    s = vector("scores", scores)
    g = vector("gains", gains, len(s))
    r = None if reward_before is None else vector("reward_before", reward_before, len(s))
    require(0 < confidence < 1, "confidence", confidence, "inside (0, 1)", "use the default")
    require(resamples > 0, "resamples", resamples, "a whole number above 0", "use the default")
    nothing = why_undefined(s, g) or ("constant input" if is_constant(s) or is_constant(g) else "")
    if nothing:
        fields = ("spearman", "interval", "p_value", "partial_given_reward")
        reasons = dict.fromkeys(fields, nothing)
        return Correlation(math.nan, NO_INTERVAL, math.nan, math.nan, len(s), reasons)
    order = np.lexsort((g, s))  # the seed then gives the same answer for any order of checkpoints
    u, v = _centred_ranks(s[order]), _centred_ranks(g[order])
    rng = np.random.default_rng(seed)
    p_value = stats.permutation_test(
        (u,),
        lambda u, axis: np.sum(u * v, axis=axis),
        permutation_type="pairings",
        n_resamples=resamples,
        vectorized=True,
        rng=rng,
    ).pvalue
    interval, reasons = _interval(u, v, confidence, resamples, rng)
    partial = "no reward_before" if r is None else _partial(s, g, r)
    if isinstance(partial, str):
        reasons["partial_given_reward"], partial = partial, math.nan
    spearman = float(_rank_correlation(u, v))
    return Correlation(spearman, interval, float(p_value), partial, len(s), reasons)


def regret(scores: FloatArray, gains: FloatArray) -> float:
    """The gain lost by N*, the argmax of the score (Eq. 31): max_i g_i − g_N*, in reward units.

    Tied checkpoints count with their mean gain, a NaN score is never chosen, a NaN gain gives NaN.
    """
    s = vector("scores", scores)
    g = vector("gains", gains, len(s))
    if np.isnan(s).all():
        return math.nan
    return float(g.max() - g[s == np.nanmax(s)].mean())


def z_scores(values: FloatArray) -> FloatArray:
    """(x − mean) / std over checkpoints, population std; all NaN if constant or not all finite."""
    x = vector("values", values)
    if not np.isfinite(x).all() or is_constant(x):
        return np.full(x.shape, np.nan)
    return np.asarray((x - x.mean()) / x.std())


def z_combination(reward_before: FloatArray, predictor: FloatArray) -> FloatArray:
    """The paper's z(R_before) + z(P), which it holds against the reward after RL (Section 6)."""
    r = vector("reward_before", reward_before)
    return z_scores(r) + z_scores(vector("predictor", predictor, len(r)))


def best_probability(
    values: FloatArray, standard_errors: FloatArray, *, draws: int = DRAWS, seed: int = 0
) -> FloatArray:
    """P(x_i + e_i = max_j (x_j + e_j)), e_j ~ N(0, se_j²), simulated; m tied count 1/m each.

    A NaN value is never the best, a NaN standard error counts as 0; all NaN if every value is.
    """
    drawn_Bn = _draws(values, standard_errors, draws, seed)
    if np.isnan(values).all():
        return np.full(len(values), np.nan)
    best_Bn = drawn_Bn == drawn_Bn.max(axis=1, keepdims=True)
    return np.asarray((best_Bn / best_Bn.sum(axis=1, keepdims=True)).mean(axis=0))


def rank_intervals(
    values: FloatArray,
    standard_errors: FloatArray,
    confidence: float = CONFIDENCE,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> FloatArray:
    """Lowest and highest rank (1 = best, ties by mid-ranks), shape (n, 2); NaN where the value is.

    The (1 ± confidence)/2 quantiles of rank(x_i + e_i), from the draws of `best_probability`.
    """
    require(0 < confidence < 1, "confidence", confidence, "inside (0, 1)", "use the default")
    ranks_Bn = stats.rankdata(-_draws(values, standard_errors, draws, seed), axis=1)
    levels = [(1 - confidence) / 2, (1 + confidence) / 2]
    intervals = np.quantile(ranks_Bn, levels, axis=0, method="inverted_cdf").T
    return np.where(np.isnan(values)[:, None], np.nan, intervals)


def vector(argument: str, values: FloatArray, length: int | None = None) -> FloatArray:
    """Values in float64, shape (n,); any other shape is refused."""
    array = np.asarray(values, dtype=np.float64)
    fits = array.ndim == 1 and length in (None, len(array))
    wanted = "shape (n,)" if length is None else f"shape ({length},)"
    fix = "pass one number a checkpoint, in the same order throughout"
    require(fits, argument, f"shape {array.shape}", wanted, fix)
    return array


def require(holds: bool, argument: str, got: object, wanted: str, fix: str) -> None:
    """Raise the `UserError` unless the condition holds."""
    if not holds:
        raise UserError(argument, str(got), wanted, fix)


def why_undefined(*arrays: FloatArray) -> str:
    """Why arrays with the checkpoints along the first axis allow no estimate, "" if they do."""
    if any(len(array) < MIN_CHECKPOINTS for array in arrays):
        return f"fewer than {MIN_CHECKPOINTS} checkpoints"
    return "" if all(np.isfinite(array).all() for array in arrays) else "non-finite input"


def is_constant(values: FloatArray) -> bool:
    """Whether there are fewer than two different values."""
    return np.unique(values).size < 2


def _centred_ranks(values: FloatArray) -> FloatArray:
    """Twice the mid-ranks minus twice their mean: whole numbers, so sums are exact."""
    return np.asarray(2 * stats.rankdata(values, axis=-1) - (values.shape[-1] + 1))


def _rank_correlation(x: FloatArray, y: FloatArray) -> FloatArray:
    """Spearman's ρ along the last axis, NaN where x or y is constant."""
    u, v = _centred_ranks(x), _centred_ranks(y)
    norm = np.asarray(np.sqrt(np.sum(u * u, axis=-1) * np.sum(v * v, axis=-1)))
    rho = np.full(norm.shape, np.nan)
    np.divide(np.sum(u * v, axis=-1), norm, out=rho, where=norm > 0)
    return rho


def _interval(
    u: FloatArray, v: FloatArray, confidence: float, resamples: int, rng: np.random.Generator
) -> tuple[tuple[float, float], dict[str, str]]:
    """The bootstrap interval of ρ, and the reasons for what is undefined or dropped."""
    # Percentile, not BCa: BCa gives nothing where one resample is constant or ρ is near ±1, and
    # covers no better (0.94 to 0.98 for 0.95, both, at n = 8, 20, 50 and three correlations).
    chosen_Bn = rng.integers(0, len(u), (resamples, len(u)))
    rho_B = _rank_correlation(u[chosen_Bn], v[chosen_Bn])
    defined_B = rho_B[np.isfinite(rho_B)]
    dropped = resamples - len(defined_B)
    if dropped > MAX_CONSTANT_RESAMPLES * resamples:
        return NO_INTERVAL, {"interval": f"{dropped} of {resamples} resamples constant"}
    reasons = {"resamples": f"dropped {dropped} constant of {resamples}"} if dropped else {}
    if is_constant(defined_B):
        return NO_INTERVAL, reasons | {"interval": "every resample has the same ρ"}
    low, high = np.quantile(defined_B, [(1 - confidence) / 2, (1 + confidence) / 2])
    return (float(low), float(high)), reasons


def _partial(s: FloatArray, g: FloatArray, r: FloatArray) -> float | str:
    """The partial ρ of s and g given r, in whole numbers up to the last division, or why not."""
    if nothing := why_undefined(r) or ("constant reward_before" if is_constant(r) else ""):
        return nothing
    ranks = np.stack([_centred_ranks(s), _centred_ranks(g), _centred_ranks(r)]).astype(np.int64)
    (ss, sg, sr), (_, gg, gr), (_, _, rr) = (ranks @ ranks.T).tolist()
    left_s, left_g = ss * rr - sr * sr, gg * rr - gr * gr
    for name, left in (("scores", left_s), ("gains", left_g)):
        if left == 0:
            return f"{name} perfectly rank-correlated with reward_before"
    return float((sg * rr - sr * gr) / math.sqrt(left_s * left_g))


def _draws(values: FloatArray, standard_errors: FloatArray, draws: int, seed: int) -> FloatArray:
    """Simulated true values, shape (draws, n); an undefined value is drawn as -inf."""
    x = vector("values", values)
    errors = vector("standard_errors", standard_errors, len(x))
    errors = np.where(np.isnan(errors), 0.0, errors)
    require(draws > 0, "draws", draws, "a whole number above 0", "use the default")
    valid = bool((np.isfinite(errors) & (errors >= 0)).all())
    wanted, fix = "finite numbers of at least 0, or NaN", "pass the square roots of the variances"
    require(valid, "standard_errors", errors.tolist(), wanted, fix)
    noise_Bn = np.random.default_rng(seed).standard_normal((draws, len(x)))
    return np.asarray(np.where(np.isnan(x), -np.inf, x) + errors * noise_Bn)
