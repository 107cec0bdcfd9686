"""The reward `math`: a completion's mathematical answer equals the right one, by math-verify."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from valuegrad.errors import UserError
from valuegrad.rewards.isolation import Isolated

_JUDGES = Isolated("math_verify")


def mathematics(completions: Sequence[str], answer: Sequence[str], **_: object) -> list[float]:
    r"""Reward 1 where math-verify finds a completion equal to its answer, else 0.

    math-verify takes the completion's boxed or last expression. One that keeps it busy for more
    than `isolation.SECONDS` is wrong.

    Args:
        completions: the texts.
        answer: the right answer of each: an expression, LaTeX, or a text that ends in it; what
            stands before ``####`` is left out.

    Returns:
        A reward each.

    Example:
        ``mathematics([r"so it is $\frac{1}{2}$"], ["0.5"])`` is ``[1.0]``.
    """
    pairs = zip(completions, answer, strict=True)
    return [_JUDGES("math_equal", completion, right) or 0.0 for completion, right in pairs]


def readable(answer: str) -> bool:
    """Whether math-verify makes something of an answer."""
    return bool(_JUDGES("math_readable", answer))


def check_installed() -> None:
    """Refuse to go on without math-verify.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise UserError(
            "reward",
            "'math' without math-verify installed",
            "the extra that holds it",
            "pip install 'valuegrad[math]'",
        )
