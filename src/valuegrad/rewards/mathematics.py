"""The reward `math`: a completion's mathematical answer equals the right one, by math-verify."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from valuegrad.rewards.worker import Worker

_WORKER = Worker("math_verify")
_WORD = re.compile(r"(?<!\\)(?<![A-Za-z])[A-Za-z]{2,}")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mbox)\s*\{[^}]*\}")
_MARKS = ("$", "\\boxed", "\\(", "\\[")


def mathematics(completions: Sequence[str], answer: Sequence[str], **_: object) -> list[float]:
    """Reward 1 where the boxed or last expression of a completion equals its answer, else 0."""
    return _WORKER.scores(_equal, zip(completions, answer, strict=True))


def readable(answer: str) -> bool:
    """Whether math-verify makes something of an answer."""
    return _WORKER.scores(_readable, [(answer,)]) == [1.0]


def _equal(completion: str, answer: str) -> float:
    from math_verify import verify

    return float(verify(_right(answer), _expressions(completion), timeout_seconds=None))


def _readable(answer: str) -> float:
    return float(bool(_right(answer)))


@cache
def _right(answer: str) -> list[Any]:
    """What math-verify reads in an answer, or in what stands after its last ``####``."""
    return _expressions(answer.rsplit("####", 1)[-1])


def _expressions(text: str) -> list[Any]:
    """What math-verify reads in a text; a bare expression is put between dollars for it."""
    from math_verify import parse

    lines = text.strip().splitlines()
    bare = lines[-1].strip().rstrip(".") if lines else ""
    if bare and not any(m in text for m in _MARKS) and not _WORD.search(_TEXT.sub("", bare)):
        found = parse(f"${bare}$", parsing_timeout=None)
        if found:
            return list(found)
    return list(parse(text, parsing_timeout=None))
