"""Σ, Λ and the alignment (Eqs. 24 to 27), and every measurement of a checkpoint made of them.

Whichever way prompts were measured, the quantities of theory §6 are per prompt first, then
averaged, with standard errors by the jackknife over prompts.

N prompts
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.budget import Budget, Method
from valuegrad.errors import UserError, check_positive
from valuegrad.impact.headroom import LARGE
from valuegrad.impact.settings import ALPHA
from valuegrad.model.policy import Site
from valuegrad.tasks.strata import strata_codes


@dataclass(frozen=True, eq=False)
class RewardMoments:
    """What the distribution of a prompt's reward decides, float64."""

    reward: Float[Tensor, " N"]  # E[R]
    reward_variance: Float[Tensor, " N"]
    entropy: Float[Tensor, " N"]  # of the next token at the prompt's end, nats
    headroom: Float[Tensor, " N"]  # Eq. 28
    log_tilt: Float[Tensor, " N"]  # log E[e^{αR}]
    pass_at_k: Float[Tensor, " N"]
    zero_spread: Float[Tensor, " N"]  # chance that a group earns the same throughout


@dataclass(frozen=True, eq=False)
class GradientSignals:
    """What costates and value gradients at a prompt's states give for one method, float64."""

    slope: Float[Tensor, " N"]  # E[λ̂|h] = slope · G
    sigma: Float[Tensor, " N"]
    alignment: Float[Tensor, " N"]
    lambda_conditional: Float[Tensor, " N"]
    lambda_sample: Float[Tensor, " N"]


@dataclass(frozen=True, eq=False)
class Signals(GradientSignals, RewardMoments):
    """Everything of theory §6 by prompt, for one method."""

    def map(self, function: Callable[[Tensor], Tensor]) -> "Signals":
        """The same with a function applied to every measurement."""
        return replace(self, **{f.name: function(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True)
class Measurements:
    """The measurements of a checkpoint, theory §6; or their standard errors."""

    reward_before: float
    sigma: float
    lambda_conditional: float
    lambda_sample: float
    alignment: float
    headroom: float
    headroom_pooled: float
    p_gap: float
    p_gap_conditional: float
    p_alignment: float
    entropy: float
    reward_variance: float
    pass_at_k: float
    zero_spread_groups: float


@dataclass(frozen=True, eq=False)
class Impact:
    """Every measurement of one checkpoint but the probe step, for one method and site.

    Attributes:
        method: the critic-free method.
        site: where the gradients live.
        alpha: of the headroom, in inverse reward units.
        group_size: actions a group, for pass@k and zero-spread groups.
        means: the measurements (Eqs. 24 to 28).
        standard_errors: of the means over prompts; the batch's mean and deviation that ppo
            normalises by are taken as given. NaN where prompts do not tell.
        rows: the measurements of each prompt.
    """

    method: Method
    site: Site
    alpha: float
    group_size: int
    means: Measurements
    standard_errors: Measurements
    rows: Signals


def check_settings(alpha: float, group_size: int) -> None:
    """Refuse a tilt or a group size that nothing can be measured with."""
    check_positive("alpha", alpha, f"use the default, {ALPHA:g}")
    if group_size < 2:
        fix = f"use the default, {Budget.group_size}"
        raise UserError("group_size", str(group_size), "2 or more", fix)


def signals(
    moments: RewardMoments,
    slope: Float[Tensor, " N"],
    squared: Float[Tensor, " N"],
    costate_error: Float[Tensor, " N"],
) -> Signals:
    """Alignment slope Σ (Eq. 24), Λ = |slope − 1| Σ (Eq. 26), Λ_sample = ‖G‖ E‖λ̂ − G‖, Σ = ‖G‖²."""
    return Signals(
        **vars(moments),
        slope=slope,
        sigma=squared,
        alignment=slope * squared,
        lambda_conditional=(slope - 1).abs() * squared,
        lambda_sample=squared.sqrt() * costate_error,
    )


def summarise(
    method: Method,
    site: Site,
    alpha: float,
    group_size: int,
    rows: Signals,
    uncertain: Signals | None = None,
    strata: Sequence[str] | None = None,
) -> Impact:
    """Average the measurements of prompts, with standard errors by the jackknife over prompts.

    That is by stratum, Σ_h (N_h − 1)/N_h Σ_{i∈h} (θ_{−i} − mean_h θ_{−i})², where there are some.
    ``uncertain`` holds what standard errors are formed of where that is not the rows themselves:
    draws, of which an error of 0 is undefined.
    """
    rows = rows.map(lambda x: x.cpu())
    count = len(rows.reward)
    codes = strata_codes(strata, count)
    means = _combined(rows.map(lambda x: x.mean(0, keepdim=True)), rows, alpha)
    errors = dict.fromkeys(means, math.nan)
    if count > 1:
        spread = rows if uncertain is None else uncertain
        cells = [np.flatnonzero(codes == h) for h in range(codes.max() + 1)]
        left_out = _combined(spread.map(lambda x: _left_out(x, cells)), spread, alpha, cells)
        for name, x in left_out.items():
            parts = ((len(c) - 1) / len(c) * (x[c] - x[c].mean()).square().sum() for c in cells)
            errors[name] = math.sqrt(math.fsum(map(float, parts)))
    if uncertain is not None:
        # Prompts that all say the same do not say how sure that is.
        errors = {name: error or math.nan for name, error in errors.items()}
    measured = Measurements(**{name: float(x) for name, x in means.items()})
    return Impact(method, site, alpha, group_size, measured, Measurements(**errors), rows)


def _left_out(x: Tensor, cells: Sequence[np.ndarray]) -> Tensor:
    """The mean without each prompt, the weight of whose stratum stays as it is."""
    means = torch.empty_like(x)
    for cell in cells:
        inside = x[cell]
        means[cell] = x.mean() + (inside.mean() - inside) * (len(cell) / (len(cell) - 1) / len(x))
    return means


def _combined(
    mean: Signals, rows: Signals, alpha: float, cells: Sequence[np.ndarray] | None = None
) -> dict[str, Tensor]:
    """Measurements as functions of means over prompts, of all or with each left out."""
    # E[e^{αr}] = e^c (1 + E[e^{log tilt − c} − 1]) for any c; this one keeps the digits.
    centre = alpha * rows.reward.mean()
    centre = centre if rows.log_tilt.max() - centre < LARGE else rows.log_tilt.max()
    tilted = torch.expm1(rows.log_tilt - centre)
    count = len(tilted)
    tilt = tilted.mean() if cells is None else _left_out(tilted, cells)
    composed = {
        "reward_before": mean.reward,
        "headroom_pooled": (torch.log1p(tilt) + centre) / alpha - mean.reward,
        "p_gap": (mean.sigma - mean.lambda_sample) * mean.headroom,
        "p_gap_conditional": (mean.sigma - mean.lambda_conditional) * mean.headroom,
        "p_alignment": mean.alignment * mean.headroom,
        "zero_spread_groups": count * mean.zero_spread,
    }
    every = vars(mean) | composed
    return {f.name: every[f.name] for f in fields(Measurements)}
