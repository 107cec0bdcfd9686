"""Which prompts RL can learn from now: signal × headroom of each, and what keeps the others out.

N prompts
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from valuegrad.impact.signal import Impact

READY, SOLVED, OUT_OF_REACH = "ready", "solved", "out of reach"
VERDICTS = (READY, SOLVED, OUT_OF_REACH)


@dataclass(frozen=True, eq=False)
class Readiness:
    """Signal, signal × headroom and one of `VERDICTS` for each prompt."""

    signal: Float[Tensor, " N"]
    readiness: Float[Tensor, " N"]
    verdict: np.ndarray


def readiness(impact: Impact, *, one_token: bool) -> Readiness:
    """Signal × headroom of each prompt, and the verdict on it.

    A prompt teaches nothing by a group that earns the same throughout. Where that is more likely
    than not, it is *solved* if it earns at least half of what there is, *out of reach* if less; the
    rest is *ready*.

    The signal of one-token answers is the alignment. At the prompt's last position that sees the
    first token alone, which is no matter where the first digit of a sum is plain and the next one
    is not: of longer answers the signal is E[Â R] = ψ Var R, reward times advantage.
    """
    rows = impact.rows
    signal = rows.alignment if one_token else rows.slope * rows.reward_variance
    unequal = (rows.zero_spread <= 0.5).numpy()
    verdict = np.where(rows.reward.numpy() >= impact.middle, SOLVED, OUT_OF_REACH)
    return Readiness(signal, signal * rows.headroom, np.where(unequal, READY, verdict))
