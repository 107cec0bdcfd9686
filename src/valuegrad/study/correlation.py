"""How well a predictor ranks checkpoints by their gain, and how sure that ranking (Eq. 31) is.

What is undefined is NaN, never a number.

n checkpoints · S seeds · B draws
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from valuegrad.study.permutation import (
    EXCHANGEABLE,
    TRAJECTORY,
    exchangeable_p_value,
    trajectory_p_value,
)
from valuegrad.study.posterior import posterior_draws
from valuegrad.study.vectors import (
    FloatArray,
    by_seed,
    centred_ranks,
    is_constant,
    require,
    vector,
    why_undefined,
)

CONFIDENCE = 0.95
RESAMPLES = 9999
SEED_SHARE = 0.25  # of the gains' variance over checkpoints; noisier gains get no interval
ENOUGH = 8  # checkpoints for two slopes: a gain may go with ranks of the scores or with their size
SINGULAR = 1e-6  # relative singular value below which a column says nothing of its own
NO_INTERVAL = (math.nan, math.nan)
FIELDS = ("spearman", "interval", "p_value", "partial_given_reward", "partial_given_step")


@dataclass(frozen=True)
class Correlation:
    """A rank correlation over n checkpoints; `reasons` says, by field, why a value is NaN.

    `spearman` is of these n checkpoints and their measured mean gains. `interval` is where ρ with
    their expected gains lies: over seeds of RL, for these checkpoints and held-out prompts.
    `p_value` is for no relation, by the `test` that is named. Nothing here is about other runs.
    """

    spearman: float
    interval: tuple[float, float]
    p_value: float
    partial_given_reward: float
    n: int
    reasons: dict[str, str]
    partial_given_step: float = math.nan
    test: str = ""


def correlate(
    scores: FloatArray,
    gains: FloatArray,
    reward_before: FloatArray | None = None,
    *,
    steps: FloatArray | None = None,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Correlation:
    """Correlate a predictor with the gain by ranks, and say how sure that is.

    ρ = corr(rank s, rank g), ties by mid-ranks; given the reward R,
    ρ_sg·R = (ρ_sg − ρ_sR ρ_gR) / sqrt((1 − ρ_sR²)(1 − ρ_gR²)), and likewise given the step.

    Args:
        scores: the predictor, shape (n,), any unit.
        gains: the measured gains, shape (n,) or by seed (n, S), reward units; g is the mean.
        reward_before: the rewards before RL, shape (n,), reward units; None skips the partial.
        steps: where each checkpoint stands in one run, shape (n,), for checkpoints of one run;
            None where each is of a run of its own.
        confidence: the level of the interval, inside (0, 1).
        resamples: draws for the interval, and permutations where there are more than this; else the
            p-value is exact.
        seed: of the draws and permutations.

    Returns:
        ρ; the interval of ρ with the expected gains of these very checkpoints over seeds of RL, the
        held-out prompts given, from two seeds on; the two-sided p-value, which with steps is at
        most its level for independent and autocorrelated series, random walks included; the partial
        ρ. What is undefined is NaN, with its reason.

    Raises:
        UserError: a shape, the confidence or the number of resamples is wrong.

    Example:
        >>> scores = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
        >>> found = correlate(scores, np.array([0.1, 0.2, 0.4, 0.3, 0.5]))
        >>> round(found.spearman, 12), round(found.p_value, 12)  # exact: twice 5 of 120
        (0.9, 0.083333333333)
        >>> found.reasons["interval"]
        'one seed does not tell how far gains scatter'
        >>> correlate(scores, np.ones(5)).reasons["spearman"]
        'constant input'
    """
    s = vector("scores", scores)
    seeds = by_seed("gains", gains, len(s))
    g = seeds.mean(1)
    r = None if reward_before is None else vector("reward_before", reward_before, len(s))
    t = None if steps is None else vector("steps", steps, len(s))
    finite = t is None or bool(np.isfinite(t).all())
    require(finite, "steps", steps, "finite numbers", "pass None where a checkpoint has none")
    require(0 < confidence < 1, "confidence", confidence, "inside (0, 1)", "use the default")
    require(resamples > 0, "resamples", resamples, "a whole number above 0", "use the default")
    nothing = why_undefined(s, g) or ("constant input" if is_constant(s) or is_constant(g) else "")
    if nothing:
        reasons = dict.fromkeys(FIELDS, nothing)
        return Correlation(math.nan, NO_INTERVAL, math.nan, math.nan, len(s), reasons)
    # The seed then gives the same answer for any order of checkpoints.
    order = np.lexsort((g, s)) if t is None else np.argsort(t, kind="stable")
    s, g, seeds = s[order], g[order], seeds[order]
    r, t = (None if z is None else z[order] for z in (r, t))
    rng = np.random.default_rng(seed)
    found: dict[str, float | str] = {
        "partial_given_reward": "no reward_before"
        if r is None
        else _partial(s, g, r, "reward_before"),
        "partial_given_step": "no steps" if t is None else _partial(s, g, t, "step"),
    }
    if t is None:
        found["p_value"] = exchangeable_p_value(s, g, resamples, rng)
    else:
        p = trajectory_p_value(s, g, resamples, rng)
        found["p_value"] = "equal differences along the run" if math.isnan(p) else p
    interval = _interval(s, seeds, t, confidence, resamples, seed)
    reasons = {name: value for name, value in found.items() if isinstance(value, str)}
    known = {n: math.nan if isinstance(value, str) else value for n, value in found.items()}
    if isinstance(interval, str):
        reasons["interval"], interval = interval, NO_INTERVAL
    return Correlation(
        spearman=float(rank_correlation(s, g)),
        interval=interval,
        n=len(s),
        reasons=reasons,
        test=EXCHANGEABLE if t is None else TRAJECTORY,
        **known,
    )


def spearman(scores: FloatArray, gains: FloatArray) -> float:
    """The rank correlation alone; NaN where `correlate` says why."""
    return math.nan if why_undefined(scores, gains) else float(rank_correlation(scores, gains))


def rank_correlation(x: FloatArray, y: FloatArray) -> FloatArray:
    """Spearman's ρ along the last axis, NaN where x or y is constant."""
    u, v = centred_ranks(x), centred_ranks(y)
    norm = np.asarray(np.sqrt(np.sum(u * u, axis=-1) * np.sum(v * v, axis=-1)))
    rho = np.full(norm.shape, np.nan)
    np.divide(np.sum(u * v, axis=-1), norm, out=rho, where=norm > 0)
    return rho


def _interval(
    s: FloatArray,
    gains: FloatArray,
    places: FloatArray | None,
    confidence: float,
    draws: int,
    seed: int,
) -> tuple[float, float] | str:
    """Where ρ of s and the expected gains lies, or why nothing says so.

    Seeds drawn anew from those that there are would count their scatter twice, which covers 61% for
    95%. Instead the expected gains are drawn from their posterior, with the scores as covariate: a
    prior without these would draw the correlation towards 0.
    """
    n, count = gains.shape
    if count < 2:
        return "one seed does not tell how far gains scatter"
    mean = gains.mean(1)
    variance = float(gains.var(axis=1, ddof=1).mean()) / count
    if variance == 0:
        return "every seed has the same gains"
    if variance > SEED_SHARE * mean.var(ddof=1):
        return f"seeds make more than {SEED_SHARE:.0%} of what gains differ by"
    normal_scores = stats.norm.ppf((stats.rankdata(s) - 0.5) / n)
    drawn_Bn = posterior_draws(
        mean,
        variance * np.eye(n),
        freedom=float(n * (count - 1)),
        covariates=_independent([normal_scores, s][: 1 + (n >= ENOUGH)]),
        places=places,
        draws=draws,
        seed=seed,
    )
    levels = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(rank_correlation(s, drawn_Bn), levels, method="inverted_cdf")
    return float(low), float(high)


def _independent(columns: list[FloatArray]) -> list[FloatArray]:
    """Centred columns that span the same, without those that the others say up to rounding."""
    centred = np.stack([x - x.mean() for x in columns], 1)
    sizes = np.linalg.norm(centred, axis=0)
    kept = centred[:, sizes > 0] / sizes[sizes > 0]
    left, values, _ = np.linalg.svd(kept, full_matrices=False)
    return list(left[:, values > SINGULAR * values[0]].T)


def _partial(s: FloatArray, g: FloatArray, given: FloatArray, name: str) -> float | str:
    """The partial ρ of s and g, in whole numbers up to the last division, or why not."""
    if nothing := why_undefined(given) or (f"constant {name}" if is_constant(given) else ""):
        return nothing
    ranks = np.stack([centred_ranks(s), centred_ranks(g), centred_ranks(given)]).astype(np.int64)
    (ss, sg, sr), (_, gg, gr), (_, _, rr) = (ranks @ ranks.T).tolist()
    left_s, left_g = ss * rr - sr * sr, gg * rr - gr * gr
    for what, left in (("scores", left_s), ("gains", left_g)):
        if left == 0:
            return f"{what} perfectly rank-correlated with {name}"
    return float((sg * rr - sr * gr) / math.sqrt(left_s * left_g))
