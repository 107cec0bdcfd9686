"""From records to conclusions: the ranking (Eq. 31), correlations, laws (Eq. 30), regret.

n checkpoints · S seeds · K numbers of updates; gains are (n, S, K), (n, 0) where RL was not run
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from scipy.special import logit

from valuegrad.checkpoints.names import common_steps, share_a_run
from valuegrad.impact.readiness import VERDICTS
from valuegrad.impact.score import probe_updates
from valuegrad.study.best import (
    JointError,
    best_probability,
    independent,
    rank_intervals,
    shared_prompts,
    true_draws,
)
from valuegrad.study.config import StudyConfig
from valuegrad.study.correlation import correlate, spearman
from valuegrad.study.laws import MARGIN, affine, proportional, saturating
from valuegrad.study.predictors import BY_NAME, DEFAULT, PREDICTORS, Measurements, column
from valuegrad.study.regret import regret
from valuegrad.study.result import (
    CheckpointResult,
    LawResult,
    PredictorResult,
    PromptResult,
    Seconds,
    StudyResult,
)
from valuegrad.study.run import Measured, Outcome
from valuegrad.study.vectors import FloatArray
from valuegrad.study.z_scores import z_combination


def summarise(config: StudyConfig, outcome: Outcome) -> StudyResult:
    """Rank the checkpoints, and hold every predictor and law against the measured gains."""
    measured = outcome.measured
    scores = [m.score for m in measured]
    values = column(scores, DEFAULT)
    steps = _steps(scores)
    drawn = true_draws(values, _error(scores), steps)
    order = _order(values)
    trained = all(m.runs for m in measured)
    runs = [m.runs if trained else () for m in measured]
    gains = np.array([[run["gains"] for run in of_one] for of_one in runs], dtype=np.float64)
    return StudyResult(
        ranking=tuple(scores[i]["checkpoint"] for i in order),
        best=scores[order[0]]["checkpoint"],
        rank_intervals=tuple((a, b) for a, b in rank_intervals(drawn)[order].tolist()),
        best_probability=tuple(best_probability(drawn)[order].tolist()),
        ranked_by=DEFAULT,
        trained=trained,
        predictors={n: _predictor(n, scores, gains, steps) for n in PREDICTORS} if trained else {},
        laws=_laws(config, scores, gains, steps) if trained else {},
        combination=_combination(scores, gains) if trained else {},
        failures=outcome.failures,
        seconds=Seconds(sum(m.seconds[0] for m in measured), sum(m.seconds[1] for m in measured)),
        config=asdict(config),
        prompts=_prompts(measured[order[0]].score["rows"]),
        checkpoints=tuple(map(_checkpoint, measured, gains)),
    )


def rank(scores: Sequence[Measurements]) -> list[Measurements]:
    """Scores in order of the default predictor, highest first, undefined ones last."""
    return [scores[i] for i in _order(column(scores, DEFAULT))]


def _order(values: FloatArray) -> list[int]:
    return [int(i) for i in np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")]


def _steps(scores: Sequence[Measurements]) -> FloatArray | None:
    """Where each checkpoint stands, if all are of one run."""
    steps = common_steps([(score["checkpoint"], score["step"]) for score in scores])
    return None if steps is None else np.array(steps, dtype=np.float64)


def _error(scores: Sequence[Measurements]) -> JointError:
    """The joint error of the ranking's predictor over the held-out prompts, given the updates."""
    rows = [score["rows"] for score in scores]
    same = all(of_one["prompt"] == rows[0]["prompt"] for of_one in rows)
    if same and all(DEFAULT in of_one for of_one in rows):
        # Records of earlier versions name no strata: prompts are then taken for one.
        named = all("stratum" in of_one for of_one in rows)
        by_prompt = np.array([of_one[DEFAULT] for of_one in rows], dtype=np.float64)
        return shared_prompts(by_prompt, rows[0]["stratum"] if named else None)
    errors = np.array([s["standard_errors"].get(DEFAULT) for s in scores], dtype=np.float64)
    return independent(errors, float(max(len(rows[0]["prompt"]) - 1, 1)))


def _predictor(
    name: str, scores: Sequence[Measurements], gains: FloatArray, steps: FloatArray | None
) -> PredictorResult:
    values, before = column(scores, name), column(scores, "reward_before")
    mean = gains.mean((1, 2))
    found = correlate(values, gains.mean(2), before, steps=steps)
    reasons = dict(found.reasons)
    if name in BY_NAME and np.isnan(values).any():
        reasons = dict.fromkeys(reasons, "not known of every checkpoint")
    lost = regret(values, gains.mean(2))
    if math.isnan(lost):
        one = "one seed says neither which checkpoint is the best nor what that gains"
        undefined = "a gain is undefined, or the predictor is for every checkpoint"
        reasons["regret"] = one if gains.shape[1] < 2 else undefined
    p_value = found.p_value
    if steps is None and share_a_run([(score["checkpoint"], score["step"]) for score in scores]):
        reasons["p_value"] = "several checkpoints of several runs: they are no independent sample"
        p_value = math.nan
    return PredictorResult(
        spearman_gain=found.spearman,
        spearman_gain_interval=found.interval,
        p_value=p_value,
        partial_given_reward=found.partial_given_reward,
        spearman_after=spearman(values, before + mean),
        spearman_by_updates=tuple(
            spearman(values, gains[:, :, k].mean(1)) for k in range(gains.shape[2])
        ),
        regret=lost,
        reasons=reasons,
        partial_given_step=found.partial_given_step,
        test=found.test,
    )


def _laws(
    config: StudyConfig,
    scores: Sequence[Measurements],
    gains: FloatArray,
    steps: FloatArray | None,
) -> dict[str, LawResult]:
    mean, before = gains.mean((1, 2)), column(scores, "reward_before")
    updates = np.array(config.budget.updates, dtype=np.float64)
    # What the probe did to the log-odds in its own number of updates, per update.
    reached = np.clip(before + column(scores, "probe_step"), MARGIN, 1 - MARGIN)
    rise = logit(reached) - logit(np.clip(before, MARGIN, 1 - MARGIN))
    # Under a tilt dV/dα is the variance, so alignment / variance is the tilt a unit of update.
    variance = column(scores, "reward_variance")
    aligned = column(scores, "alignment") / np.where(variance > 0, variance, np.nan)
    rates = {"probe_step": rise / probe_updates(config.budget), "alignment": aligned}
    laws = {
        f"saturating({name})": saturating(rate, before, gains.mean(1), updates, steps)
        for name, rate in rates.items()
    }
    for name in ("probe_step", "p_alignment", "p_gap"):
        for law in (proportional, affine):
            laws[f"{law.__name__}({name})"] = law(column(scores, name), mean, steps)
    return {
        name: LawResult(
            constants=law.constants,
            leave_one_out_error=law.leave_one_out_error,
            fitted=tuple(law.fitted.tolist()),
            left_out=tuple(law.left_out.tolist()),
            reason=law.reason,
            neighbours=law.neighbours,
        )
        for name, law in laws.items()
    }


def _combination(scores: Sequence[Measurements], gains: FloatArray) -> dict[str, float]:
    """Spearman of the paper's z(R_before) + z(P) with the reward after RL."""
    before = column(scores, "reward_before")
    after = before + gains.mean((1, 2))
    return {
        name: spearman(z_combination(before, column(scores, name)), after)
        for name in ("probe_step", "p_alignment", "p_gap")
    }


def _prompts(rows: dict[str, list[Any]]) -> tuple[PromptResult, ...]:
    reward, readiness = (np.array(rows[n], float).tolist() for n in ("reward", "readiness"))
    columns = zip(rows["prompt"], reward, readiness, rows["verdict"], strict=True)
    return tuple(PromptResult(*values) for values in columns)


def _checkpoint(measured: Measured, gains: FloatArray) -> CheckpointResult:
    """The score of a checkpoint with its gains (S, K), if there are any."""
    score, found = measured.measurements, measured.score["rows"]["verdict"]
    verdicts = {verdict: found.count(verdict) for verdict in VERDICTS}
    result = CheckpointResult(score["checkpoint"], score["label"], score["step"], score, verdicts)
    if not gains.size:
        return result
    mean = float(gains.mean())
    return replace(
        result,
        gain_mean=mean,
        gain_deviation=float(gains.mean(1).std(ddof=1)) if len(gains) > 1 else math.nan,
        gain_by_updates=dict(zip(measured.runs[0]["updates"], gains.mean(0).tolist(), strict=True)),
        gains=tuple(map(tuple, gains.tolist())),
        reward_after_mean=float(column([score], "reward_before")[0]) + mean,
        train_seconds=measured.seconds[1],
    )
