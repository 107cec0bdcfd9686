"""RL impact of a checkpoint: signal, loss, alignment, headroom and the scores made of them.

Whichever way they were measured, theory §6's quantities are per prompt first, then averaged, with
standard errors by the jackknife over prompts.

N prompts
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from valuegrad.errors import UserError, check_positive
from valuegrad.impact.headroom import LARGE
from valuegrad.methods import Method
from valuegrad.model.policy import Site

Columns = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Impact:
    """Every measurement of one checkpoint but the probe step, for one method and site.

    Attributes:
        method: the critic-free method.
        site: where the gradients live.
        alpha: of the headroom, in inverse reward units.
        group_size: actions a group, for pass@k and zero-spread groups.
        means: measurement → value, theory §6.
        standard_errors: measurement → standard error over prompts; the batch's mean and deviation
            that ppo normalises by are taken as given.
        rows: measurement → value of each held-out prompt, where it has one.
    """

    method: Method
    site: Site
    alpha: float
    group_size: int
    means: dict[str, float]
    standard_errors: dict[str, float]
    rows: Columns


def check_settings(alpha: float, group_size: int) -> None:
    """Refuse a tilt or a group size that nothing can be measured with.

    Raises:
        UserError: one of them is out of range.
    """
    check_positive("alpha", alpha, "use the default, 5")
    if group_size < 2:
        raise UserError("group_size", str(group_size), "2 or more", "use the default, 16")


def tilted_columns(alpha: float, log_tilts: np.ndarray, rewards: np.ndarray) -> Columns:
    """What the pooled headroom needs of each prompt.

    E[e^{αr}] over everything = e^c (1 + E[tilted]) for any centre c; this one keeps the digits.

    Args:
        alpha: the tilt.
        log_tilts: log E[e^{αr}] of each prompt.
        rewards: E[r] of each prompt.

    Returns:
        The columns ``tilted`` and ``centre``.
    """
    centre = alpha * rewards.mean()
    centre = centre if log_tilts.max() - centre < LARGE else log_tilts.max()
    return {"tilted": np.expm1(log_tilts - centre), "centre": np.full_like(log_tilts, centre)}


def summarise(method: Method, site: Site, alpha: float, group_size: int, rows: Columns) -> Impact:
    """Average per-prompt measurements, with standard errors by the jackknife over prompts.

    Args:
        method: the critic-free method.
        site: where the gradients live.
        alpha: of the headroom.
        group_size: of pass@k and zero-spread groups.
        rows: of each prompt the reward and its variance, entropy, headroom, pass@k, the chance of
            equal rewards in a group, slope, Σ, alignment, both Λ, and `tilted_columns`.

    Returns:
        The impact.
    """
    totals = {name: values.sum(keepdims=True) for name, values in rows.items()}
    count = len(rows["reward"])
    means = _combined({k: total / count for k, total in totals.items()}, alpha, count)
    errors = dict.fromkeys(means, math.nan)
    if count > 1:
        left_out = _combined({k: (totals[k] - rows[k]) / (count - 1) for k in rows}, alpha, count)
        scale = (count - 1) / count
        errors = {
            k: float(np.sqrt(scale * ((v - v.mean()) ** 2).sum())) for k, v in left_out.items()
        }
    return Impact(
        method, site, alpha, group_size, {k: v.item() for k, v in means.items()}, errors, rows
    )


def _combined(mean: Columns, alpha: float, count: int) -> Columns:
    """Measurements as functions of the means over prompts, so that a jackknife can redo them."""
    headroom = mean["headroom"]
    return {
        "reward_before": mean["reward"],
        "sigma": mean["sigma"],
        "lambda_conditional": mean["lambda_conditional"],
        "lambda_sample": mean["lambda_sample"],
        "alignment": mean["alignment"],
        "headroom": headroom,
        "headroom_pooled": (np.log1p(mean["tilted"]) + mean["centre"]) / alpha - mean["reward"],
        "p_gap": (mean["sigma"] - mean["lambda_sample"]) * headroom,
        "p_gap_conditional": (mean["sigma"] - mean["lambda_conditional"]) * headroom,
        "p_alignment": mean["alignment"] * headroom,
        "entropy": mean["entropy"],
        "reward_variance": mean["reward_variance"],
        "pass_at_k": mean["pass_at_k"],
        "zero_spread_groups": count * mean["zero_spread"],
    }
