"""Which prompts RL can learn from now: signal × headroom of each, and what keeps the others out.

N prompts
"""

from __future__ import annotations

import numpy as np

from valuegrad.impact.signal import Columns, Impact

READY, SOLVED, OUT_OF_REACH = "ready", "solved", "out of reach"
VERDICTS = (READY, SOLVED, OUT_OF_REACH)


def readiness(impact: Impact, *, one_token: bool) -> Columns:
    """Signal × headroom of each prompt, and the verdict on it.

    A prompt teaches nothing by a group that earns the same throughout. Where that is more likely
    than not, it is *solved* if it earns at least half, *out of reach* if less; the rest is *ready*.

    The signal of one-token answers is the alignment. At the prompt's last position that sees the
    first token alone, which is no matter where the first digit of a sum is plain and the next one
    is not: of longer answers the signal is E[Â R] = slope × Var R, reward times advantage.

    Args:
        impact: of the method that will train.
        one_token: whether completions are one token.

    Returns:
        The columns ``signal``, ``readiness``, signal × headroom, and ``verdict``, one of
        `VERDICTS`.
    """
    rows = impact.rows
    signal = rows["alignment"] if one_token else rows["slope"] * rows["reward_variance"]
    silent = rows["zero_spread"] > 0.5
    verdict = np.where(rows["reward"] >= 0.5, SOLVED, OUT_OF_REACH)
    return {
        "signal": signal,
        "readiness": signal * rows["headroom"],
        "verdict": np.where(silent, verdict, READY),
    }
