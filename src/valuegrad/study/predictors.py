"""Predictors of the RL gain, Eq. 29 and its parts among them: numbers of one checkpoint's score.

Adding one that a score has is adding a line to `PREDICTORS`; tables, figures and records follow.

n checkpoints
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from valuegrad.study.vectors import FloatArray

Measurements = Mapping[str, Any]

DEFAULT = "probe_step"
"""The predictor that the ranking goes by."""

PREDICTORS = {
    "probe_step": "reward change after a short move along the update",
    "gradient_norm": "length of the update's parameter gradient",
    "p_alignment": "alignment × headroom",
    "alignment": "costate · value gradient (Eq. 24)",
    "headroom": "reachable headroom (Eq. 28)",
    "headroom_pooled": "headroom, pooled over prompts",
    "reward_variance": "variance of the reward at a prompt",
    "pass_at_k": "a group holds a right answer",
    "reward_before": "reward before RL",
    "entropy": "entropy of the answer's distribution",
    "step": "training step of the checkpoint",
    "tokens": "tokens it was trained on",
    "p_gap": "the paper's score, (Σ − Λ) × headroom",
    "p_gap_conditional": "p_gap with the Λ of Eq. 26",
    "p_gap_population": "p_gap in infinitely large groups",
    "p_gap_conditional_population": "p_gap_conditional in infinitely large groups",
}
"""What each predictor is, in a few words."""

BY_NAME = ("step", "tokens")
"""Predictors that a checkpoint's name tells, if any; unknown of one, they say nothing."""


def column(scores: Sequence[Measurements], name: str) -> FloatArray:
    """A predictor, or another number of a score, by its name: shape (n,), NaN where undefined."""
    return np.array([score[name] for score in scores], dtype=np.float64)


def meaning(name: str) -> str:
    """What a predictor is, "" for one that only another version has."""
    return PREDICTORS.get(name, "")
