"""Numbers as text for reading: true minus signs, few digits, a dash where one is undefined."""

import math

UNDEFINED = "–"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float, digits: int = 3) -> str:
    """As many significant digits as tell something: 0.0345, −2.89·10⁻⁶."""
    if math.isnan(value):
        return UNDEFINED
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = int(exponent)
    if -4 < power < 5:
        return f"{value:.{max(digits - 1 - power, 0)}f}".replace("-", "−")
    return f"{mantissa}·10{str(power).translate(_SUPERSCRIPT)}".replace("-", "−")


def fixed(value: float, decimals: int = 2, *, sign: bool = False) -> str:
    """A fixed number of decimals, a gain with its plus sign: +0.92, −0.50, 0.00."""
    if math.isnan(value):
        return UNDEFINED
    text = f"{value:{'+' if sign else ''}.{decimals}f}"
    return text.lstrip("+-") if not float(text) else text.replace("-", "−")


def share(probability: float) -> str:
    """A percentage that never rounds to a certainty: 60%, < 1%, > 99%."""
    if math.isnan(probability):
        return UNDEFINED
    if probability < 0.01:
        return "< 1%"
    if 0.99 < probability < 1:
        return "> 99%"
    return f"{probability:.0%}"


def p_value(value: float) -> str:
    """Three decimals, and a bound below them: 0.034, < 0.001."""
    return "< 0.001" if value < 0.001 else fixed(value, 3)


def correlation_interval(ends: tuple[float, float]) -> str:
    """Both ends of an interval of correlations: −0.50 to 0.92."""
    return UNDEFINED if any(map(math.isnan, ends)) else f"{fixed(ends[0])} to {fixed(ends[1])}"


def rank_interval(ends: tuple[float, float]) -> str:
    """An interval of ranks, one where both ends agree: 1 to 3, 2."""
    if any(map(math.isnan, ends)):
        return UNDEFINED
    low, high = ends
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def duration(seconds: float) -> str:
    """In the largest units that suit: 17.8 s, 1 min 33 s, 1 h 7 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {round(seconds % 3600 / 60)} min"
