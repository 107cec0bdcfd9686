r"""The reward `number`: the last number of a completion equals the answer's last number, exactly.

Numbers have thousands separators (``1,234``, ``1{,}234``), decimals, exponents or a fraction bar
(``1/2``, ``\frac{1}{2}``; ``2 1/2`` is 2.5, but ``9/11/2001`` three numbers). A sign counts where
it touches the number (``-$5``, ``$-5``); right after a digit, a letter or a bracket it is a minus
between two numbers (``16-3`` ends in 3). Currency and percent signs are left out: ``50%`` is 50.
"""

import re
from collections import deque
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

# A leading dot counts only where nothing before it makes it a full stop or an ellipsis.
_PLAIN = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![\w.)\]])\.[0-9]+"
_NUMBER = re.compile(
    rf"""
    (?: (?<![\w)\]}}%.+-]) (?P<sign>[+-]) )?
    (?: \\?[$€£¥] (?P<inner>-)? )?
    (?:
        (?P<whole>[0-9]+)[ ](?P<part>[0-9]+)/(?P<parts>[0-9]*[1-9][0-9]*)(?![\w/]|[.,][0-9])
      | (?<!/) (?P<over>{_PLAIN})/(?P<under>{_PLAIN})(?![\w/]|[.,][0-9])
      | (?P<plain>{_PLAIN}) (?P<exponent>[eE][+-]?[0-9]{{1,3}}(?!\w))?
    )
    """,
    re.VERBOSE,
)
_FRACTION = re.compile(r"([0-9])?\\[dt]?frac\s*\{\s*([0-9.,]+)\s*\}\s*\{\s*([0-9.,]+)\s*\}")


def number(completions: Sequence[str], answer: Sequence[str], **_: object) -> list[float]:
    """Reward 1 where the last number of a completion equals the answer's last number, else 0."""
    pairs = zip(map(last_number, completions), map(last_number, answer), strict=True)
    return [float(found is not None and found == right) for found, right in pairs]


def last_number(text: str) -> Fraction | None:
    """The last number of a text, exactly; None where there is none."""
    text = text.replace("−", "-").replace("{,}", ",")
    text = _FRACTION.sub(lambda m: (f"{m[1]} " if m[1] else "") + f"{m[2]}/{m[3]}", text)
    found = deque(_NUMBER.finditer(text), maxlen=1)
    return _value(found[0]) if found else None


def _value(match: re.Match[str]) -> Fraction:
    if match["part"]:
        size = int(match["whole"]) + Fraction(int(match["part"]), int(match["parts"]))
    elif match["over"]:
        over, under = _plain(match["over"]), _plain(match["under"])
        # Nothing is worth x/0: what stands last is then the 0.
        size = over / under if under else under
    else:
        size = _plain(match["plain"] + (match["exponent"] or ""))
    return -size if "-" in (match["sign"], match["inner"]) else size


def _plain(text: str) -> Fraction:
    # Decimal reads any number of digits, where int refuses more than 4,300.
    return Fraction(Decimal(text.replace(",", "")))
