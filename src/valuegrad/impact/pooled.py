"""Standard errors of ppo, whose advantages are scaled by the moments of all prompts together.

Leaving a prompt out also changes the pooled mean and deviation, and with them the advantages at
every other prompt. Where rewards spread more Σ is larger and the scale 1/σ smaller: with the
moments taken as given the standard errors of alignment and Λ come out too large.

N prompts
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.finite_groups import GroupAdvantages, group_advantages
from valuegrad.impact.signal import Signals, left_out, strata_cells
from valuegrad.methods import population_advantages

STEP = 1e-5  # of a relative scale or a baseline, for derivatives by differences


def shifted_advantages(limit: GroupAdvantages) -> tuple[GroupAdvantages, GroupAdvantages]:
    """Advantages of a scale that is larger, and of a baseline that is higher, by `STEP`."""
    wider = replace(limit, nodes=limit.nodes * (1 + STEP))
    return wider, replace(limit, nodes=limit.nodes - STEP * limit.slope[:, None, None])


def elasticity(
    values: Float[Tensor, " K"],
    probabilities: Float[Tensor, "N K"],
    squared: Float[Tensor, " N"],
    group_size: int,
    prompts_per_update: int,
) -> float:
    """How much of a change of the scale in the limit the alignment in finite batches sees.

    A batch's own group does not change with the other prompts, and a few successes in it scale
    alike whatever their rate. From the prompt without which the scale changes the most.
    """
    mean = (probabilities * values).sum(1)
    second = (probabilities * values.square()).sum(1)
    count = len(mean)
    if count < 3 or prompts_per_update < 2:
        return 0.0
    slope = _scale(mean.mean()[None], second.mean()[None])[0]
    without = [(x.sum() - x) / (count - 1) for x in (mean, second)]
    change = (_scale(*without)[0] / slope).log()
    out = int(change.abs().argmax())
    others = torch.arange(count, device=mean.device) != out
    if not change[out].abs() > 1e-12:
        return 1.0
    some, sizes = probabilities[others], (group_size, prompts_per_update)
    whole, left = (
        group_advantages(values, some, "ppo", *sizes, pool=pool).slope @ squared[others]
        for pool in (probabilities, some)
    )
    return float((left / whole).log() / change[out]) if whole > 0 and left > 0 else 1.0


def _scale(mean: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and baseline of advantages that are normalised by these moments."""
    variance = (second - mean.square()).clamp(min=0)
    given = population_advantages(mean, variance, "grpo")
    return given.slope, given.baseline


def pooled_rows(
    rows: Signals,
    derivatives: Sequence[Tensor],
    seen: float,
    strata: Sequence[str] | None = None,
) -> Signals:
    """Rows of which the jackknife over means is that of the whole measurement, moments included.

    The derivatives are those of E‖λ̂ − G‖, each (N,), by the logarithm of the scale and by the
    baseline of the advantages; ``seen`` is the `elasticity` of finite batches.
    """
    by_scale, by_baseline = derivatives
    count = len(rows.reward)
    if count < 3:
        return rows
    cells = strata_cells(strata, count)
    mean, second = rows.reward, rows.reward_variance + rows.reward.square()

    slope, baseline = _scale(mean.mean()[None], second.mean()[None])
    slopes, baselines = _scale(left_out(mean, cells), left_out(second, cells))
    scale, shift = slopes / slope - 1, baselines - baseline

    def with_change(values: Tensor, change: Tensor) -> Tensor:
        """What leaves, as a mean without a prompt, the mean of its others plus the change.

        Of several strata it is off by a number that is the same for all prompts of a stratum.
        """
        weight = torch.empty_like(values)
        for cell in cells:
            weight[cell] = count * (len(cell) - 1) / len(cell)
        return values - weight * change + (change + weight * change).mean()

    def distance(ratio: Tensor) -> Tensor:
        """What another scale changes in Λ = |ψ − 1| Σ, by its relative change."""
        alike: Tensor = left_out((ratio - 1).sign() * ratio * rows.sigma, cells)
        return alike

    norm = rows.sigma.clamp(min=0).sqrt()
    sampled = left_out(norm * by_scale, cells) * scale
    sampled = sampled + left_out(norm * by_baseline, cells) * shift
    changes = {
        "alignment": left_out(rows.alignment, cells) * scale * seen,
        "alignment_population": left_out(rows.alignment_population, cells) * scale,
        "lambda_conditional": distance(rows.slope) * scale * seen,
        "lambda_conditional_population": distance(slope.expand(count)) * scale,
        "lambda_sample": sampled * seen,
        "lambda_sample_population": sampled,
    }
    return replace(
        rows, **{name: with_change(getattr(rows, name), x) for name, x in changes.items()}
    )
