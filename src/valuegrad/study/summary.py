"""From records to conclusions: ranking, correlations, laws, regret.

n checkpoints · K numbers of updates · S seeds
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy.special import logit

from valuegrad.impact.readiness import VERDICTS
from valuegrad.impact.score import probe_updates
from valuegrad.study.config import StudyConfig
from valuegrad.study.laws import MARGIN, Law, affine, proportional, saturating
from valuegrad.study.predictors import DEFAULT, PREDICTORS
from valuegrad.study.run import Measured, Outcome
from valuegrad.study.statistics import (
    FloatArray,
    best_probability,
    correlate,
    rank_intervals,
    regret,
    z_combination,
)


def summarise(config: StudyConfig, outcome: Outcome) -> dict[str, Any]:
    """Rank the checkpoints, and hold every predictor against the measured gains.

    Args:
        config: of the study.
        outcome: its records, at least one checkpoint.

    Returns:
        The JSON document of ``valuegrad study`` but for the paths: ``ranking``, ``best``,
        ``predictors``, ``laws``, ``checkpoints``, and beside the contract ``rank_intervals``,
        ``best_probability``, ``prompts`` (of the best), ``trained``, ``failures``, ``seconds``.
        Undefined values are NaN, with reasons beside them.
    """
    measured = outcome.measured
    scores = [m.score for m in measured]
    values = _column(scores, DEFAULT)
    errors = np.array([s["standard_errors"].get(DEFAULT) or 0.0 for s in scores], dtype=float)
    order = _order(values)
    trained = all(m.runs for m in measured)
    gains = _gains(measured) if trained else None
    document: dict[str, Any] = {
        "ranking": [scores[i]["checkpoint"] for i in order],
        "best": scores[order[0]]["checkpoint"],
        "rank_intervals": rank_intervals(values, errors)[order],
        "best_probability": best_probability(values, errors)[order],
        "ranked_by": DEFAULT,
        "trained": trained,
        "predictors": {},
        "laws": {},
        "combination": {},
        "failures": outcome.failures,
        "seconds": {
            "score": sum(m.seconds[0] for m in measured),
            "train": sum(m.seconds[1] for m in measured),
        },
        "config": asdict(config),
        "prompts": _prompts(measured[order[0]]),
    }
    if gains is not None:
        document["predictors"] = {name: _predictor(name, scores, gains) for name in PREDICTORS}
        document["laws"] = {name: _law(law) for name, law in _laws(config, scores, gains)}
        document["combination"] = _combination(scores, gains)
    document["checkpoints"] = [
        _checkpoint(m, None if gains is None else gains[i]) for i, m in enumerate(measured)
    ]
    return document


def _prompts(measured: Measured) -> list[dict[str, Any]]:
    """Every prompt of a checkpoint, with its signal × headroom."""
    names = ("prompt", "reward", "readiness", "verdict")
    columns = [measured.score["rows"][name] for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def rank(scores: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Scores in order of the default predictor, highest first, undefined ones last."""
    return [scores[i] for i in _order(_column(scores, DEFAULT))]


def _order(values: FloatArray) -> list[int]:
    return [int(i) for i in np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")]


def _column(scores: Sequence[dict[str, Any]], predictor: str) -> FloatArray:
    found = (PREDICTORS[predictor](s) for s in scores)
    return np.array([np.nan if v is None else v for v in found], dtype=float)


def _gains(measured: Sequence[Measured]) -> FloatArray:
    """Gains (n, S, K)."""
    return np.array([[run["gains"] for run in m.runs] for m in measured], dtype=float)


def _predictor(name: str, scores: Sequence[dict[str, Any]], gains: FloatArray) -> dict[str, Any]:
    values, before = _column(scores, name), _column(scores, "reward_before")
    mean = gains.mean((1, 2))
    found = correlate(values, mean, before)
    after = correlate(values, before + mean)
    budgets = [correlate(values, gains[:, :, k].mean(1)).spearman for k in range(gains.shape[2])]
    return {
        "spearman_gain": found.spearman,
        "spearman_gain_interval": list(found.interval),
        "p_value": found.p_value,
        "partial_given_reward": found.partial_given_reward,
        "spearman_after": after.spearman,
        "spearman_by_updates": budgets,
        "regret": regret(values, mean),
        "reasons": found.reasons,
    }


def _laws(
    config: StudyConfig, scores: Sequence[dict[str, Any]], gains: FloatArray
) -> list[tuple[str, Law]]:
    mean, before = gains.mean((1, 2)), _column(scores, "reward_before")
    updates = np.array(config.budget.updates, dtype=float)
    probe = _column(scores, "probe_step")
    # What the probe did to the log-odds in its own number of updates, per update.
    reached = np.clip(before + probe, MARGIN, 1 - MARGIN)
    rate = (logit(reached) - logit(np.clip(before, MARGIN, 1 - MARGIN))) / probe_updates(
        config.budget
    )
    # Under a tilt dV/dα is the variance, so alignment / variance is the tilt a unit of update.
    variance = _column(scores, "reward_variance")
    aligned = _column(scores, "alignment") / np.where(variance > 0, variance, np.nan)
    by_updates = gains.mean(1)
    return [
        ("saturating(probe_step)", saturating(rate, before, by_updates, updates)),
        ("saturating(alignment)", saturating(aligned, before, by_updates, updates)),
        ("proportional(probe_step)", proportional(probe, mean)),
        ("affine(probe_step)", affine(probe, mean)),
        ("proportional(p_alignment)", proportional(_column(scores, "p_alignment"), mean)),
        ("affine(p_alignment)", affine(_column(scores, "p_alignment"), mean)),
        ("proportional(p_gap)", proportional(_column(scores, "p_gap"), mean)),
        ("affine(p_gap)", affine(_column(scores, "p_gap"), mean)),
    ]


def _law(law: Law) -> dict[str, Any]:
    return {
        "constants": law.constants,
        "leave_one_out_error": law.leave_one_out_error,
        "fitted": law.fitted,
        "left_out": law.left_out,
        "reason": law.reason,
    }


def _combination(scores: Sequence[dict[str, Any]], gains: FloatArray) -> dict[str, Any]:
    """The paper's z(R_before) + z(P) against the reward after RL (Fig. 5)."""
    before = _column(scores, "reward_before")
    after = before + gains.mean((1, 2))
    return {
        name: correlate(z_combination(before, _column(scores, name)), after).spearman
        for name in ("probe_step", "p_alignment", "p_gap")
    }


def _checkpoint(measured: Measured, gains: FloatArray | None) -> dict[str, Any]:
    found = measured.score["rows"]["verdict"]
    score = measured.measurements | {"verdicts": {v: found.count(v) for v in VERDICTS}}
    if gains is None:
        return score
    by_updates = dict(zip(measured.runs[0]["updates"], gains.mean(0).tolist(), strict=True))
    return {
        **score,
        "gain_mean": float(gains.mean()),
        "gain_deviation": float(gains.mean(1).std(ddof=1)) if len(gains) > 1 else float("nan"),
        "gain_by_updates": {str(k): v for k, v in by_updates.items()},
        "gains": gains,
        "reward_after_mean": score["reward_before"] + float(gains.mean()),
        "train_seconds": measured.seconds[1],
    }
