"""Which prompts RL can learn from now: signal × headroom of each, and what keeps the others out.

N prompts
"""

import numpy as np

from valuegrad.impact.signal import Impact

READY, SOLVED, OUT_OF_REACH = "ready", "solved", "out of reach"
VERDICTS = (READY, SOLVED, OUT_OF_REACH)


def readiness(impact: Impact, *, one_token: bool) -> dict[str, np.ndarray]:
    """Columns of signal, signal × headroom (``readiness``) and ``verdict``, one of `VERDICTS`.

    A prompt teaches nothing by a group that earns the same throughout. Where that is more likely
    than not, it is *solved* if it earns at least half, *out of reach* if less; the rest is *ready*.

    The signal of one-token answers is the alignment. At the prompt's last position that sees the
    first token alone, which is no matter where the first digit of a sum is plain and the next one
    is not: of longer answers the signal is E[Â R] = slope × Var R, reward times advantage.
    """
    rows = impact.rows
    signal = rows.alignment if one_token else rows.slope * rows.reward_variance
    verdict = np.where(rows.reward >= 0.5, SOLVED, OUT_OF_REACH)
    verdict = np.where(rows.zero_spread <= 0.5, READY, verdict)
    worth = signal * rows.headroom
    return {"signal": signal.numpy(), "readiness": worth.numpy(), "verdict": verdict}
