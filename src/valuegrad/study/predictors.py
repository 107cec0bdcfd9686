"""Predictors of the RL gain: each a function of one checkpoint's measurements.

Adding one is adding a line to `PREDICTORS`; every table, figure and record follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Measurements = Mapping[str, Any]

DEFAULT = "probe_step"
"""The predictor that the ranking goes by."""

PREDICTORS: dict[str, Callable[[Measurements], float]] = {
    "probe_step": lambda s: s["probe_step"],
    "gradient_norm": lambda s: s["gradient_norm"],
    "p_alignment": lambda s: s["p_alignment"],
    "alignment": lambda s: s["alignment"],
    "headroom": lambda s: s["headroom"],
    "headroom_pooled": lambda s: s["headroom_pooled"],
    "reward_variance": lambda s: s["reward_variance"],
    "pass_at_k": lambda s: s["pass_at_k"],
    "reward_before": lambda s: s["reward_before"],
    "entropy": lambda s: s["entropy"],
    "p_gap": lambda s: s["p_gap"],
    "p_gap_conditional": lambda s: s["p_gap_conditional"],
}

MEANING = {
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
    "p_gap": "the paper's score, (Σ − Λ) × headroom",
    "p_gap_conditional": "the same with Eq. 26's Λ",
}
