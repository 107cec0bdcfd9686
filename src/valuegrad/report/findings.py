"""What a study of n checkpoints found: the prediction, the best of them, the reasons."""

import math
from dataclasses import dataclass

import numpy as np

from valuegrad.study.predictors import column
from valuegrad.study.result import CheckpointResult, PredictorResult, StudyResult
from valuegrad.study.statistics import FloatArray


@dataclass(frozen=True, eq=False)
class Prediction:
    """Gains (n,) in reward units, each predicted without the checkpoint it is for."""

    gains: FloatArray  # the predictor itself, a reward change, where no law could be fitted
    law: str  # "" where none could
    error: float  # leave-one-out, NaN without a law


def prediction(result: StudyResult) -> Prediction:
    """Predict by the law of the ranking's predictor with the lowest leave-one-out error."""
    laws = [
        (law.leave_one_out_error, name)
        for name, law in result.laws.items()
        if name.endswith(f"({result.ranked_by})") and not math.isnan(law.leave_one_out_error)
    ]
    if not laws:
        return Prediction(measurements(result, result.ranked_by), "", math.nan)
    error, name = min(laws)
    return Prediction(np.array(result.laws[name].left_out), name, error)


def measurements(result: StudyResult, name: str) -> FloatArray:
    """One number of every checkpoint's score, (n,), in the result's order."""
    return column([checkpoint.score for checkpoint in result.checkpoints], name)


def mean_gains(result: StudyResult) -> FloatArray:
    """The measured mean gains, (n,); all NaN where RL was not run."""
    return np.array([checkpoint.gain_mean for checkpoint in result.checkpoints])


def ranked(result: StudyResult) -> list[int]:
    """Where the ranking's checkpoints stand in the result: the predicted best first."""
    places = {found.checkpoint: i for i, found in enumerate(result.checkpoints)}
    return [places[name] for name in result.ranking]


def chosen(result: StudyResult) -> CheckpointResult:
    """The checkpoint that is predicted to gain most."""
    return result.checkpoints[ranked(result)[0]]


def best_measured(result: StudyResult) -> int | None:
    """Where the checkpoint with the highest mean gain stands; None where no gain is defined."""
    gains = mean_gains(result)
    return None if np.isnan(gains).all() else int(np.nanargmax(gains))


def sorted_predictors(result: StudyResult) -> dict[str, PredictorResult]:
    """By correlation with the gain, undefined ones last, the ranking's own first of equals."""
    own_first = sorted(result.predictors.items(), key=lambda item: item[0] != result.ranked_by)
    return dict(sorted(own_first, key=lambda item: np.nan_to_num(-item[1].spearman_gain, nan=2.0)))


def seed_range(checkpoint: CheckpointResult) -> tuple[float, float]:
    """Lowest and highest gain of a seed, the mean over numbers of updates; NaN where undefined."""
    means = [sum(seed) / len(seed) for seed in checkpoint.gains] or [math.nan]
    return float(np.min(means)), float(np.max(means))


def reason(reasons: dict[str, str], *fields: str) -> str:
    """Why a value is undefined, from the reasons recorded beside it."""
    found = [reasons[name] for name in fields if reasons.get(name)]
    return found[0] if found else "a value that it is made from is undefined"
