"""Standard errors of ppo, whose advantages are scaled by the moments of all prompts together.

Leaving a prompt out also changes the pooled mean and deviation, and with them the advantages at
every other prompt. Where rewards spread more Σ is larger and the scale 1/σ smaller: with the
moments taken as given the standard errors of alignment and Λ come out too large.

N prompts
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from valuegrad.finite_groups import GroupAdvantages
from valuegrad.impact.signal import Signals, left_out, strata_cells
from valuegrad.methods import population_advantages

STEP = 1e-5  # of a relative scale or a baseline, for derivatives by differences


def shifted_advantages(limit: GroupAdvantages) -> tuple[GroupAdvantages, GroupAdvantages]:
    """Advantages of a scale that is larger, and of a baseline that is higher, by `STEP`."""
    wider = replace(limit, nodes=limit.nodes * (1 + STEP))
    return wider, replace(limit, nodes=limit.nodes - STEP * limit.slope[:, None, None])


def pooled_rows(
    rows: Signals, derivatives: Sequence[Tensor], strata: Sequence[str] | None = None
) -> Signals:
    """Rows of which the jackknife over means is that of the whole measurement, moments included.

    The derivatives are those of E‖λ̂ − G‖, each (N,), by the logarithm of the scale and by the
    baseline of the advantages.
    """
    by_scale, by_baseline = derivatives
    count = len(rows.reward)
    if count < 3:
        return rows
    cells = strata_cells(strata, count)
    mean, second = rows.reward, rows.reward_variance + rows.reward.square()

    def moments(total: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
        given = population_advantages(total, (squares - total.square()).clamp(min=0), "grpo")
        return given.slope, given.baseline

    slope, baseline = moments(mean.mean()[None], second.mean()[None])
    slopes, baselines = moments(left_out(mean, cells), left_out(second, cells))
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
        """What the other scale changes in Λ = |ψ − 1| Σ."""
        alike: Tensor = left_out((ratio - 1).sign() * ratio * rows.sigma, cells)
        return alike * scale

    norm = rows.sigma.clamp(min=0).sqrt()
    sampled = left_out(norm * by_scale, cells) * scale
    sampled = sampled + left_out(norm * by_baseline, cells) * shift
    changes = {
        "alignment": left_out(rows.alignment, cells) * scale,
        "alignment_population": left_out(rows.alignment_population, cells) * scale,
        "lambda_conditional": distance(rows.slope),
        "lambda_conditional_population": distance(slope.expand(count)),
        "lambda_sample": sampled,
        "lambda_sample_population": sampled,
    }
    return replace(
        rows, **{name: with_change(getattr(rows, name), x) for name, x in changes.items()}
    )
