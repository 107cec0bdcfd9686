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
    """What costates and value gradients at a prompt's states give for one method, float64.

    Of groups of the budget's size; ``_population`` ends the names of their limits for infinitely
    large ones, which are the paper's.
    """

    slope: Float[Tensor, " N"]  # ψ: E[λ̂|h] = ψ G where rewards have two values
    sigma: Float[Tensor, " N"]
    alignment: Float[Tensor, " N"]
    lambda_conditional: Float[Tensor, " N"]
    lambda_sample: Float[Tensor, " N"]
    alignment_population: Float[Tensor, " N"]
    lambda_conditional_population: Float[Tensor, " N"]
    lambda_sample_population: Float[Tensor, " N"]


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
    lambda_conditional_population: float
    lambda_sample_population: float
    alignment_population: float
    p_gap_population: float
    p_gap_conditional_population: float
    p_alignment_population: float
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
        group_size: actions a group.
        means: the measurements (Eqs. 24 to 28).
        standard_errors: of the means over prompts, by stratum; of ppo with what leaving a prompt
            out does to the batch's mean and deviation. NaN where prompts do not tell.
        rows: the measurements of each prompt.
        middle: the reward from which on a prompt whose groups all earn the same is solved.
    """

    method: Method
    site: Site
    alpha: float
    group_size: int
    means: Measurements
    standard_errors: Measurements
    rows: Signals
    middle: float = 0.5


def check_settings(alpha: float, group_size: int) -> None:
    """Refuse a tilt or a group size that nothing can be measured with."""
    check_positive("alpha", alpha, f"use the default, {ALPHA:g}")
    if group_size < 2:
        fix = f"use the default, {Budget.group_size}"
        raise UserError("group_size", str(group_size), "2 or more", fix)


@dataclass(frozen=True, eq=False)
class MeanCostate:
    """What E[λ̂|h] of each prompt is beside G, and how far λ̂ is from G on average."""

    alignment: Float[Tensor, " N"]  # ⟨E[λ̂|h], G⟩ (Eq. 24)
    distance: Float[Tensor, " N"]  # ‖E[λ̂|h] − G‖
    error: Float[Tensor, " N"]  # E‖λ̂ − G‖


def parallel(
    slope: Float[Tensor, " N"], squared: Float[Tensor, " N"], error: Float[Tensor, " N"]
) -> MeanCostate:
    """Where E[λ̂|h] = slope · G."""
    return MeanCostate(slope * squared, (slope - 1).abs() * squared.sqrt(), error)


def signals(
    moments: RewardMoments,
    slope: Float[Tensor, " N"],
    squared: Float[Tensor, " N"],
    finite: MeanCostate,
    limit: MeanCostate,
) -> Signals:
    """Σ = ‖G‖², alignment (Eq. 24), Λ = ‖G‖ ‖E[λ̂|h] − G‖ (Eq. 26), Λ_sample = ‖G‖ E‖λ̂ − G‖."""
    norm = squared.sqrt()
    return Signals(
        **vars(moments),
        slope=slope,
        sigma=squared,
        alignment=finite.alignment,
        lambda_conditional=norm * finite.distance,
        lambda_sample=norm * finite.error,
        alignment_population=limit.alignment,
        lambda_conditional_population=norm * limit.distance,
        lambda_sample_population=norm * limit.error,
    )


def summarise(
    method: Method,
    site: Site,
    alpha: float,
    group_size: int,
    rows: Signals,
    uncertain: Signals | None = None,
    *,
    sampled: bool = False,
    middle: float = 0.5,
    strata: Sequence[str] | None = None,
) -> Impact:
    """Average the measurements of prompts, with standard errors by the jackknife over prompts.

    That is by stratum, Σ_h (N_h − 1)/N_h Σ_{i∈h} (θ_{−i} − mean_h θ_{−i})², where there are some.
    ``uncertain`` holds what standard errors are formed of where that is not the rows themselves;
    ``sampled`` says that they are of draws, of which an error of 0 is undefined.
    """
    rows = rows.map(lambda x: x.cpu())
    count = len(rows.reward)
    means = _combined(rows.map(lambda x: x.mean(0, keepdim=True)), rows, alpha)
    errors = dict.fromkeys(means, math.nan)
    if count > 1:
        spread = rows if uncertain is None else uncertain
        cells = strata_cells(strata, count)
        without = _combined(spread.map(lambda x: left_out(x, cells)), spread, alpha, cells)
        for name, x in without.items():
            parts = ((len(c) - 1) / len(c) * (x[c] - x[c].mean()).square().sum() for c in cells)
            errors[name] = math.sqrt(math.fsum(map(float, parts)))
    if sampled:
        # Prompts that all say the same do not say how sure that is.
        errors = {name: error or math.nan for name, error in errors.items()}
    measured = Measurements(**{name: float(x) for name, x in means.items()})
    found = measured, Measurements(**errors), rows
    return Impact(method, site, alpha, group_size, *found, middle)


def strata_cells(strata: Sequence[str] | None, count: int) -> list[np.ndarray]:
    """The prompts of each stratum."""
    codes = strata_codes(strata, count)
    return [np.flatnonzero(codes == h) for h in range(codes.max() + 1)]


def left_out(x: Tensor, cells: Sequence[np.ndarray]) -> Tensor:
    """The mean without each prompt, the weight of whose stratum stays as it is."""
    means = torch.empty_like(x)
    for cell in cells:
        inside = x[cell]
        means[cell] = x.mean() + (inside.mean() - inside) * (len(cell) / (len(cell) - 1) / len(x))
    return means


def _log_left_out(x: Tensor, cells: Sequence[np.ndarray]) -> Tensor:
    """Log of the count times what `left_out` makes of e^x, where no float holds that."""
    whole = torch.stack([x[cell].logsumexp(0) for cell in cells])
    found = torch.empty_like(x)
    for h, cell in enumerate(cells):
        others = torch.cat((whole[:h], whole[h + 1 :], whole.new_full((1,), -torch.inf)))
        rest = whole[h] + torch.log1p(-(x[cell] - whole[h]).exp())
        # More than half of a sum is not taken off it: the others are added up.
        (largest,) = x[cell].max(0).indices[None]
        rest[largest] = x[np.delete(cell, int(largest))].logsumexp(0)
        rest = rest + math.log(len(cell) / (len(cell) - 1))
        found[cell] = torch.logaddexp(others.logsumexp(0), rest)
    return found


def _combined(
    mean: Signals, rows: Signals, alpha: float, cells: Sequence[np.ndarray] | None = None
) -> dict[str, Tensor]:
    """Measurements as functions of means over prompts, of all or with each left out."""
    # E[e^{αr}] = e^c (1 + E[e^{log tilt − c} − 1]) for any c; this one keeps the digits.
    centre = alpha * rows.reward.mean()
    count, logs = len(rows.log_tilt), rows.log_tilt
    if logs.max() - centre < LARGE:
        tilted = torch.expm1(logs - centre)
        tilt = tilted.mean() if cells is None else left_out(tilted, cells)
        log_mean = torch.log1p(tilt) + centre
    elif cells is None:
        log_mean = logs.logsumexp(0) - math.log(count)
    else:
        log_mean = _log_left_out(logs, cells) - math.log(count)
    composed = {
        "reward_before": mean.reward,
        "headroom_pooled": log_mean / alpha - mean.reward,
        "p_gap": (mean.sigma - mean.lambda_sample) * mean.headroom,
        "p_gap_conditional": (mean.sigma - mean.lambda_conditional) * mean.headroom,
        "p_alignment": mean.alignment * mean.headroom,
        "p_gap_population": (mean.sigma - mean.lambda_sample_population) * mean.headroom,
        "p_gap_conditional_population": (mean.sigma - mean.lambda_conditional_population)
        * mean.headroom,
        "p_alignment_population": mean.alignment_population * mean.headroom,
        "zero_spread_groups": count * mean.zero_spread,
    }
    every = vars(mean) | composed
    return {f.name: every[f.name] for f in fields(Measurements)}
