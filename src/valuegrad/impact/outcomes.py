"""The rewards that prompts can earn: which values, on what scale, and what counts as a success.

N prompts · K different rewards · A outcomes
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from valuegrad.errors import UserError
from valuegrad.impact.settings import ALPHA

LEVELS = 256  # most rewards that groups are told apart by; others count as the nearest of them
SPAN = 4.0  # of rewards that the default α, meant for [0, 1], still says something about


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The different rewards of some prompts, increasing, and the probability of each."""

    values: Float[Tensor, " K"]
    probabilities: Float[Tensor, "N K"]


def levels(rewards: Tensor, most: int = LEVELS) -> Float[Tensor, " K"]:
    """The different rewards of any number of outcomes; where they are more, quantiles of them."""
    values: Tensor = torch.unique(rewards.double())
    if len(values) > most:
        # Even steps would leave nothing apart beside one reward that is far off.
        places = torch.linspace(0, len(values) - 1, most, dtype=torch.float64).round().long()
        return values[places]
    return values


def two_values(rewards: Tensor) -> tuple[float, float] | None:
    """The lower and the higher reward where there are no others; a single one is guessed at."""
    values = torch.unique(rewards.double()).tolist()
    if len(values) > 2:
        return None
    if len(values) == 2:
        return values[0], values[1]
    # Of 0 or less it is the lower of two, of more than 0 the higher.
    return (0.0, values[0]) if values[0] > 0 else (values[0], values[0] + 1)


def nearest(values: Float[Tensor, " K"], rewards: Float[Tensor, "*B"]) -> Int[Tensor, "*B"]:
    """Which of increasing values each reward is, or is nearest to."""
    middles = (values[1:] + values[:-1]) / 2
    return torch.searchsorted(middles, rewards.double().contiguous())


def reward_mass(
    values: Float[Tensor, " K"], kinds: Int[Tensor, "N A"], chances: Float[Tensor, "N A"]
) -> Float[Tensor, "N K"]:
    """The probability of each reward, from that of each outcome and from which one it earns."""
    mass = chances.new_zeros(len(chances), len(values)).scatter_add_(1, kinds, chances)
    # Many probabilities may add up to a little more than 1.
    return mass / mass.sum(1, keepdim=True)


def success(values: Float[Tensor, " K"]) -> float:
    """The least reward that counts as a success, NaN where none can be told.

    Of two rewards it is the higher, of graded ones within [0, 1] it is 1. A single one is a success
    above 0.
    """
    low, high = float(values[0]), float(values[-1])
    if len(values) <= 2:
        return high if len(values) == 2 or high > 0 else math.inf
    return 1.0 if low >= 0 and high <= 1 else math.nan


def half_way(values: Float[Tensor, " K"]) -> float:
    """The mean reward from which on a prompt whose groups all earn the same counts as solved."""
    low, high = float(values[0]), float(values[-1])
    if len(values) == 1:
        return low / 2 if low > 0 else 0.5
    if len(values) > 2 and low >= 0 and high <= 1:
        return 0.5
    return (low + high) / 2


def check_alpha(values: Float[Tensor, " K"], alpha: float) -> None:
    """Refuse the default tilt, which is for rewards within [0, 1], on another scale."""
    span = float(values[-1] - values[0])
    if alpha == ALPHA and span > SPAN:
        got = f"the default, {ALPHA:g}, with rewards from {values[0]:g} to {values[-1]:g}"
        wanted = "a tilt on the rewards' scale, about 5 divided by their span"
        raise UserError("alpha", got, wanted, f"pass {ALPHA / span:.2g}, or scale the reward")
