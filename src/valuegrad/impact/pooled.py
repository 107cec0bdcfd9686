"""Standard errors of ppo, whose advantages are scaled by the moments of all prompts together.

Leaving a prompt out also changes the pooled mean and deviation, and with them the advantages at
every other prompt. Taken as given, the moments make these standard errors 1.4 to 2.4 times too
large: where rewards spread more, Σ is larger and the scale 1/σ smaller.

N prompts
"""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from valuegrad.group_advantages import GroupAdvantages
from valuegrad.impact.signal import Signals
from valuegrad.methods import population_advantages

STEP = 1e-5  # of a relative scale or a baseline, for derivatives by differences


def shifted_advantages(limit: GroupAdvantages) -> tuple[GroupAdvantages, GroupAdvantages]:
    """Advantages of a scale that is larger, and of a baseline that is higher, by `STEP`."""
    wider = replace(limit, nodes=limit.nodes * (1 + STEP))
    return wider, replace(limit, nodes=limit.nodes - STEP * limit.slope[:, None, None])


def pooled_rows(
    rows: Signals, by_scale: Float[Tensor, " N"], by_baseline: Float[Tensor, " N"]
) -> Signals:
    """Rows of which the jackknife over means is that of the whole measurement, moments included.

    ``by_scale`` and ``by_baseline`` are the derivatives of E‖λ̂ − G‖ by the logarithm of the scale
    and by the baseline of the advantages.
    """
    count = len(rows.reward)
    if count < 3:
        return rows
    mean, second = rows.reward, rows.reward_variance + rows.reward.square()

    def moments(total: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
        given = population_advantages(total, (squares - total.square()).clamp(min=0), "grpo")
        return given.slope, given.baseline

    slope, baseline = moments(mean.mean()[None], second.mean()[None])
    others = [(x.sum() - x) / (count - 1) for x in (mean, second)]
    slopes, baselines = moments(*others)
    scale, shift = slopes / slope, baselines - baseline

    def without(values: Tensor) -> Tensor:
        """The mean over the others of what is given for each prompt left out, or for all alike."""
        table = values.expand(count, count)
        return (table.sum(1) - table.diagonal()) / (count - 1)

    def with_change(values: Tensor, change: Tensor) -> Tensor:
        """What leaves, as a mean without a prompt, the mean of its others plus the change."""
        return values - (count - 1) * change + change.sum()

    def distance(ratio: Tensor) -> Tensor:
        """What the other scale changes in Λ of Eq. 26."""
        moved = (ratio * scale[:, None] - 1).abs() - (ratio - 1).abs()
        return without(moved * rows.sigma)

    norm = rows.sigma.clamp(min=0).sqrt()
    sampled = without(norm * by_scale) * (scale - 1) + without(norm * by_baseline) * shift
    changes = {
        "alignment": without(rows.alignment) * (scale - 1),
        "alignment_population": without(rows.alignment_population) * (scale - 1),
        "lambda_conditional": distance(rows.slope),
        "lambda_conditional_population": distance(slope),
        "lambda_sample": sampled,
        "lambda_sample_population": sampled,
    }
    return replace(
        rows, **{name: with_change(getattr(rows, name), x) for name, x in changes.items()}
    )
