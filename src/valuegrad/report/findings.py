"""What a study of n checkpoints found: the best of them, its predictors in order, the reasons."""

import math

import numpy as np

from valuegrad.study.predictors import BY_NAME, column
from valuegrad.study.result import CheckpointResult, PredictorResult, StudyResult
from valuegrad.study.vectors import FloatArray


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
    """By correlation with the gain, undefined ones last, the ranking's own first of equals.

    Steps and tokens that the names do not tell are left out.
    """
    told = [
        (name, found)
        for name, found in result.predictors.items()
        if name not in BY_NAME or not math.isnan(found.spearman_gain)
    ]
    own_first = sorted(told, key=lambda item: item[0] != result.ranked_by)
    return dict(sorted(own_first, key=lambda item: np.nan_to_num(-item[1].spearman_gain, nan=2.0)))


def seed_range(checkpoint: CheckpointResult) -> tuple[float, float]:
    """Lowest and highest gain of a seed, the mean over numbers of updates; NaN where undefined."""
    means = [sum(seed) / len(seed) for seed in checkpoint.gains] or [math.nan]
    return float(np.min(means)), float(np.max(means))


def reason(reasons: dict[str, str], *fields: str) -> str:
    """Why a value is undefined, from the reasons recorded beside it."""
    found = [reasons[name] for name in fields if reasons.get(name)]
    return found[0] if found else "a value that it is made from is undefined"
