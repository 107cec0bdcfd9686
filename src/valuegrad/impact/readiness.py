"""Which prompts RL can learn from now: signal × headroom of each, and what keeps the others out.

N prompts
"""

from __future__ import annotations

import numpy as np

from valuegrad.impact.summary import Columns, Impact

READY, SOLVED, OUT_OF_REACH = "ready", "solved", "out of reach"
VERDICTS = (READY, SOLVED, OUT_OF_REACH)


def readiness(impact: Impact) -> Columns:
    """Signal × headroom of each prompt, and the verdict on it.

    A prompt teaches nothing by a group that earns the same throughout. Where that is more likely
    than not, it is *solved* if it earns at least half, *out of reach* if less; the rest is *ready*.

    Args:
        impact: of the method that will train.

    Returns:
        The columns ``readiness``, alignment × headroom, and ``verdict``, one of `VERDICTS`.
    """
    rows = impact.rows
    silent = rows["zero_spread"] > 0.5
    verdict = np.where(rows["reward"] >= 0.5, SOLVED, OUT_OF_REACH)
    return {
        "readiness": rows["alignment"] * rows["headroom"],
        "verdict": np.where(silent, verdict, READY),
    }
