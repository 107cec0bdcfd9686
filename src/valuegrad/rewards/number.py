r"""The reward `number`: the last number of a completion equals the answer's last number, exactly.

Numbers have thousands separators (``1,234``, ``1{,}234``, ``1 234``, ``1'234``, ``1,00,000``, and
``1.234.567`` or ``1.234,5`` with a decimal comma), decimals, exponents (``1e3``, ``1.5 × 10^3``,
``2³``) or a fraction bar (``1/2``, ``½``, ``\frac12``; ``2 1/2`` is 2.5, but ``9/11/2001`` three
numbers), in the digits of any script. A sign counts where it touches the number (``-$5``, ``$-5``,
``–5``); right after a digit, a letter or a bracket it is a minus between two numbers (``16-3`` ends
in 3). Currency and percent signs are left out: ``50%`` is 50.
"""

import re
import unicodedata
from collections import deque
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

# A leading dot counts only where nothing before it makes it a full stop or an ellipsis.
_PLAIN = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![\w.)\]])\.[0-9]+"
_NUMBER = re.compile(
    rf"""
    (?: (?<![\w)\]}}%.+-]) (?P<sign>[+-]) )?
    (?: \\?[$€£¥₹] (?P<inner>-)? )?
    (?:
        (?P<whole>[0-9]+)[ ](?P<part>[0-9]+)/(?P<parts>[0-9]*[1-9][0-9]*)(?![\w/]|[.,][0-9])
      | (?<!/) (?P<over>{_PLAIN})/(?P<under>{_PLAIN})(?![\w/]|[.,][0-9])
      | (?P<plain>{_PLAIN}) (?P<exponent>[eE][+-]?[0-9]{{1,3}}(?!\w))?
    )
    """,
    re.VERBOSE,
)
# Characters that stand for those of ASCII, and spaces that do not break a number.
_ALIKE = str.maketrans("−–－﹣‐‑⁄∕／＋，．٫٬＄’\u2007\u2009\u202f", "------///+,..,$'\xa0\xa0\xa0")
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_VULGAR = re.compile("(?:([0-9]) ?)?([¼-¾⅐-⅞↉])")
_PART = r"\s*(?:\{\s*(-?[0-9.,]+)\s*\}|([0-9]))"
_FRACTION = re.compile(rf"([0-9])?\\[cdt]?frac{_PART}{_PART}")
_POWER_OF_TEN = re.compile(
    r"(?<=[0-9])\s*(?:[×·*x]|\\times|\\cdot)\s*10(?:\^|\*\*|↑)\{?([+-]?[0-9]{1,3})\}?(?![0-9])"
)
_GAPS = r"(?P<gap>[{gaps}])[0-9]{{3}}(?:(?P=gap)[0-9]{{3}})*(?:\.[0-9]+|,[0-9]{{1,2}}(?![0-9]))?"
_GROUPED, _GROUPED_CLEARLY = (
    re.compile(
        rf"(?<![\w.,'\xa0])(?<![0-9][ ])[1-9][0-9]{{0,2}}{_GAPS.format(gaps=gaps)}"
        r"(?![0-9/]|[ '_\xa0,.][0-9])"
    )
    for gaps in (" '_\xa0", "'_\xa0")
)
_DECIMAL_COMMA = re.compile(
    r"(?<![\w.,])[0-9]{1,3}(?:(?:\.[0-9]{3}){2,}(?:,[0-9]+)?|(?:\.[0-9]{3})+,[0-9]{1,2})"
    r"(?![0-9]|[.,][0-9])"
)
_LAKHS = re.compile(r"(?<![\w.,])[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?![0-9]|,[0-9])")
_LARGER = re.compile(r"\s*(?:hundred|thousand|[mbtr]+illion|dozen|lakh|crore)", re.IGNORECASE)


def number(completions: Sequence[str], answer: Sequence[str], **_: object) -> list[float]:
    """Reward 1 where the last number of a completion equals the answer's last number, else 0."""
    pairs = zip(map(last_number, completions), map(last_number, answer), strict=True)
    return [float(found is not None and found == right) for found, right in pairs]


def last_number(text: str) -> Fraction | None:
    """The last number of a text as a reader takes it, exactly; None where there is none."""
    found = _last(_in_ascii(text))
    return _value(found) if found else None


def readable(answer: str) -> bool:
    """Whether the last number of an answer is a whole one, and all of what the answer says."""
    text = _in_ascii(answer, _GROUPED_CLEARLY)
    found = _last(text)
    if found is None or _value(found) != last_number(answer):
        return False
    by_zero = found["under"] and not _plain(found["under"])
    # A date, a range, a power or a list, of which this is one part.
    inside = re.search(r"[0-9][^\s=≈<>|]*$", text[: found.start()])
    if by_zero or inside or _LARGER.match(text, found.end()):
        return False
    end = re.split("####|[=≈]", text)[-1]
    words = re.search(r"[^\W\d_]{2}", re.sub(r"\\\w+|\b(?:and|or|to)\b", "", end))
    return bool(words) or sum(1 for _ in _NUMBER.finditer(end)) == 1


def _last(text: str) -> re.Match[str] | None:
    found = deque(_NUMBER.finditer(text), maxlen=1)
    return found[0] if found else None


def _in_ascii(text: str, grouped: re.Pattern[str] = _GROUPED) -> str:
    """A text with its numbers as `_NUMBER` knows them."""
    text = re.sub(r"(?![0-9])\d", lambda m: str(int(m[0])), text.translate(_ALIKE))
    text = re.sub(r"\{,\}|,\\!", ",", text)
    text = re.sub(r"(?<=[0-9])(?:\\[,;: ]|~)(?=[0-9]{3})", "\xa0", text)
    text = _VULGAR.sub(lambda m: _mixed(m[1], unicodedata.normalize("NFKC", m[2])), text)
    text = _FRACTION.sub(lambda m: _mixed(m[1], f"{m[2] or m[3]}/{m[4] or m[5]}"), text)
    text = re.sub("(?<=[0-9])[⁰¹²³⁴-⁹⁻]+", lambda m: "↑" + m[0].translate(_RAISED), text)
    text = _POWER_OF_TEN.sub(r"e\1", text)
    power = r"(?<![\w.,])([1-9][0-9]{0,5})↑(-?[0-9]{1,2})(?![0-9])"
    text = re.sub(power, lambda m: str(Fraction(int(m[1])) ** int(m[2])), text)
    text = grouped.sub(lambda m: m[0].replace(m["gap"], "").replace(",", "."), text)
    text = _DECIMAL_COMMA.sub(lambda m: m[0].replace(".", "").replace(",", "."), text)
    return _LAKHS.sub(lambda m: m[0].replace(",", ""), text)


def _mixed(whole: str | None, fraction: str) -> str:
    return (f"{whole} " if whole else "") + fraction.replace("⁄", "/")


def _value(match: re.Match[str]) -> Fraction:
    if match["part"]:
        size = _plain(match["whole"]) + _plain(match["part"]) / _plain(match["parts"])
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
