r"""The reward `math`: a completion's mathematical answer equals the right one, by math-verify.

The last box of a completion counts, or the boxes that a comma, "and" or "or" joins to it. A list
without braces (``1,0``) is in order, a set (``\{1,0\}``) is not; ``10_2`` is a number in base 2.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from valuegrad.rewards.worker import Worker

_WORKER = Worker("math_verify")
_WORD = re.compile(r"(?<!\\)(?<![A-Za-z])[A-Za-z]{2,}")
_NO_WORD = re.compile(r"\\(?:text|mathrm|textbf|mbox|operatorname|begin|end)\s*\{[^}]*\}")
_MATRIX = re.compile(r"\\begin\{(\w+)\}.*?\\end\{\1\}", re.DOTALL)
_BASED = re.compile(r"(?<![\w.\\])([0-9][0-9A-Z]*)_(?:\{([0-9]{1,2})\}|([0-9]))")
_UNORDERED = re.compile(r"\\\{|\\lbrace|\\cup|\\pm|\\mp|\bor\b|\band\b")
_JOINT = re.compile(r"[\s$]*(?:,|and|or|,\s*and|,\s*or)[\s$]*")
_MARKS = ("$", "\\boxed", "\\(", "\\[")
# The part of a number by which it may differ: the rounding of a decimal, and of a computation.
_DECIMAL, _ROUNDING = 1e-5, 1e-12


def mathematics(completions: Sequence[str], answer: Sequence[str], **_: object) -> list[float]:
    """Reward 1 where the boxed or last expression of a completion equals its answer, else 0."""
    return _WORKER.scores(_equal, zip(completions, answer, strict=True))


def readable(answer: str) -> bool:
    """Whether math-verify makes something of an answer."""
    return _WORKER.scores(_readable, [(answer,)]) == [1.0]


def _equal(completion: str, answer: str) -> float:
    return float(_verify()(_right(answer), _expressions(completion), timeout_seconds=None))


def _readable(answer: str) -> float:
    return float(bool(_right(answer)))


@cache
def _verify() -> Callable[..., bool]:
    """math-verify's comparison, in which numbers are as near as their own size asks for.

    It rounds at fixed decimals, where 2^-98 and 2^-99 are both 0.
    """
    from math_verify import grader

    near = grader.sympy_numeric_eq
    grader.sympy_numeric_eq = lambda a, b, *digits: near(a, b, *digits) and not _apart(a, b)
    return grader.verify  # type: ignore[no-any-return]


def _apart(a: Any, b: Any) -> bool:
    """Whether two expressions that math-verify rounds to the same are different all the same."""
    import sympy

    if (
        isinstance(a, sympy.MatrixBase)
        or a.has(sympy.UnevaluatedExpr)
        or b.has(sympy.UnevaluatedExpr)
    ):
        return False  # compared by element; percentages
    if a.free_symbols or b.free_symbols:
        return True  # left to the symbolic comparison, which follows
    a, b = a.doit(), b.doit()
    decimal = a.has(sympy.Float) or b.has(sympy.Float)
    if a.is_Rational and b.is_Rational:
        return bool(a != b)
    size = max(abs(sympy.N(a)), abs(sympy.N(b)))
    return bool(abs(sympy.N(a - b)) > size * (_DECIMAL if decimal else _ROUNDING))


@cache
def _right(answer: str) -> list[Any]:
    """What math-verify reads in an answer, or in what stands after its last ``####``."""
    return _expressions(answer.rsplit("####", 1)[-1])


def _expressions(text: str) -> list[Any]:
    """What math-verify reads in a text; a bare expression is put between dollars for it."""
    from math_verify import parse

    text = _BASED.sub(_in_base_ten, _last_boxes(text))
    lines = _MATRIX.sub(lambda m: m[0].replace("\n", " "), text).strip().splitlines()
    bare = lines[-1].strip().rstrip(".") if lines else ""
    found: list[Any] = []
    if bare and not any(m in text for m in _MARKS) and not _WORD.search(_NO_WORD.sub("", bare)):
        found = parse(f"${bare}$", parsing_timeout=None)
    found = found or parse(text, parsing_timeout=None)
    # Its last part is the expression as it was written.
    if found and not _UNORDERED.search(
        str(found[-1]) + "".join(re.findall(r"\\text\{.*?\}", text))
    ):
        return [_ordered(found[0]), *found[1:]]
    return list(found)


def _ordered(expression: Any) -> Any:
    """A list of values as it was written, which math-verify reads as a set."""
    import sympy
    from sympy.core.relational import Relational

    written = getattr(expression, "_unsorted_args", ())
    if not isinstance(expression, sympy.FiniteSet) or len(written) < 2:
        return expression
    return expression if any(isinstance(x, Relational) for x in written) else sympy.Tuple(*written)


def _last_boxes(text: str) -> str:
    """The last box that is closed, with those joined to it; the text itself where there is none."""
    boxes = [m for m in re.finditer(r"\\(?:boxed|fbox)\s*\{", text) if _closing(text, m.end())]
    kept: list[str] = []
    after = len(text)
    for box in reversed(boxes):
        end = _closing(text, box.end())
        if kept and not _JOINT.fullmatch(text[end:after]):
            break
        percent = "\\%" if re.match(r"\s*\\?%", text[end:]) else ""
        kept.insert(0, f"$\\boxed{{{text[box.end() : end - 1]}{percent}}}$")
        after = box.start()
    return " and ".join(kept) or text


def _closing(text: str, start: int) -> int:
    """Where a brace that opened before `start` has been closed; 0 where it is not."""
    depth = 1
    for brace in re.finditer(r"[{}]", text[start:]):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return start + brace.end()
    return 0


def _in_base_ten(number: re.Match[str]) -> str:
    try:
        return str(int(number[1], int(number[2] or number[3])))
    except ValueError:  # no such base, or none of its digits
        return number[0]
