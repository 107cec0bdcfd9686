"""Predictors of the RL gain, Eq. 29 and its parts among them: functions of one checkpoint's score.

Adding one is adding a line to `PREDICTORS`; every table, figure and record follows.

n checkpoints
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from valuegrad.study.statistics import FloatArray

Measurements = Mapping[str, Any]


@dataclass(frozen=True)
class Predictor:
    """What a predictor is, in a few words, and its value from an object of a score."""

    meaning: str
    value: Callable[[Measurements], float | None]


DEFAULT = "probe_step"
"""The predictor that the ranking goes by."""

PREDICTORS = {
    "probe_step": Predictor(
        "reward change after a short move along the update", itemgetter("probe_step")
    ),
    "gradient_norm": Predictor(
        "length of the update's parameter gradient", itemgetter("gradient_norm")
    ),
    "p_alignment": Predictor("alignment × headroom", itemgetter("p_alignment")),
    "alignment": Predictor("costate · value gradient (Eq. 24)", itemgetter("alignment")),
    "headroom": Predictor("reachable headroom (Eq. 28)", itemgetter("headroom")),
    "headroom_pooled": Predictor("headroom, pooled over prompts", itemgetter("headroom_pooled")),
    "reward_variance": Predictor(
        "variance of the reward at a prompt", itemgetter("reward_variance")
    ),
    "pass_at_k": Predictor("a group holds a right answer", itemgetter("pass_at_k")),
    "reward_before": Predictor("reward before RL", itemgetter("reward_before")),
    "entropy": Predictor("entropy of the answer's distribution", itemgetter("entropy")),
    "p_gap": Predictor("the paper's score, (Σ − Λ) × headroom", itemgetter("p_gap")),
    "p_gap_conditional": Predictor("the same with Eq. 26's Λ", itemgetter("p_gap_conditional")),
}


def column(scores: Sequence[Measurements], name: str) -> FloatArray:
    """A predictor, or another number of a score, by its name: shape (n,), NaN where undefined."""
    value = PREDICTORS[name].value if name in PREDICTORS else itemgetter(name)
    return np.array([value(score) for score in scores], dtype=np.float64)


def meaning(name: str) -> str:
    """What a predictor is, "" for one that only another version has."""
    return PREDICTORS[name].meaning if name in PREDICTORS else ""
