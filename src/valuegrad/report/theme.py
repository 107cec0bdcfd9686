"""The look of the figures and of the numbers on the page: colours, type, decimals."""

from __future__ import annotations

from typing import Any

import altair as alt
from altair.typing import ChartType

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
WIDTH = 1000  # pixels; what a figure may take across, axes and legends included
UNDEFINED = "–"

# Okabe and Ito's colours, which stay apart for colour-blind readers.
CHOSEN = "#0072b2"  # the predictor that the ranking goes by, and its predictions
PAPER = "#d55e00"  # the paper's own score
MEASURED = "#1f2328"
QUIET = "#8b939c"
FAINT = "#d9dde2"
INK = "#3d444c"

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def themed(chart: ChartType) -> ChartType:
    """Give a finished chart the look that all figures share.

    Args:
        chart: a chart without a configuration of its own.

    Returns:
        The chart with type, colours, grid and spacing set.
    """
    return chart.configure(
        font=FONT,
        padding=4,
        view={"stroke": None},
        title={
            "anchor": "start",
            "frame": "bounds",
            "fontSize": 13,
            "fontWeight": 600,
            "color": INK,
            "subtitleFontSize": 12,
            "subtitleColor": INK,
            "subtitlePadding": 4,
            "offset": 10,
        },
        axis={
            "labelFontSize": 11,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
            "labelColor": INK,
            "titleColor": INK,
            "gridColor": "#eceff2",
            "domainColor": FAINT,
            "tickColor": FAINT,
            "titlePadding": 8,
            "labelLimit": 200,
        },
        legend={
            "labelFontSize": 11,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
            "labelColor": INK,
            "titleColor": INK,
            "labelLimit": 320,
            "titleLimit": 320,
            "symbolStrokeWidth": 2,
        },
    )


def number(value: float | None, digits: int = 3) -> str:
    """Write a number for reading: as many digits as tell something, a true minus sign.

    Args:
        value: any number, None where undefined.
        digits: significant digits.

    Returns:
        The text; a dash where the number is undefined.

    Example:
        >>> number(0.03452), number(-2.887e-06), number(None)
        ('0.0345', '−2.89·10⁻⁶', '–')
    """
    if value is None:
        return UNDEFINED
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = int(exponent)
    if -4 < power < 5:
        return f"{value:.{max(digits - 1 - power, 0)}f}".replace("-", "−")
    return f"{mantissa}·10{str(power).translate(_SUPERSCRIPT)}".replace("-", "−")


def fixed(value: float | None, decimals: int = 2, *, sign: bool = False) -> str:
    """Write a number with a fixed number of decimals, as a column of them wants.

    Args:
        value: any number, None where undefined.
        decimals: digits after the point.
        sign: whether a gain shows its plus sign.

    Returns:
        The text; a dash where the number is undefined.

    Example:
        >>> fixed(0.917, sign=True), fixed(-0.5), fixed(-0.001)
        ('+0.92', '−0.50', '0.00')
    """
    if value is None:
        return UNDEFINED
    text = f"{value:{'+' if sign else ''}.{decimals}f}"
    return text.lstrip("+-") if not float(text) else text.replace("-", "−")


def share(probability: float | None) -> str:
    """Write a simulated probability as a percentage that never rounds to a certainty.

    Args:
        probability: between 0 and 1, None where undefined.

    Returns:
        The text; a dash where it is undefined.

    Example:
        >>> share(0.598), share(0.0), share(0.999), share(1.0)
        ('60%', '< 1%', '> 99%', '100%')
    """
    if probability is None:
        return UNDEFINED
    if probability < 0.01:
        return "< 1%"
    if 0.99 < probability < 1:
        return "> 99%"
    return f"{probability:.0%}"


def p_value(value: float | None) -> str:
    """Write a p-value, small ones as a bound.

    Args:
        value: between 0 and 1, None where undefined.

    Returns:
        The text; a dash where it is undefined.

    Example:
        >>> p_value(0.0002), p_value(0.0342)
        ('< 0.001', '0.034')
    """
    if value is not None and value < 0.001:
        return "< 0.001"
    return fixed(value, 3)


def rank_interval(interval: list[float | None] | None) -> str:
    """Write an interval of ranks.

    Args:
        interval: the lowest and the highest rank, None where undefined.

    Returns:
        The text, one number where both ends agree; a dash where it is undefined.

    Example:
        >>> rank_interval([1.0, 3.0]), rank_interval([2.0, 2.0]), rank_interval([None, None])
        ('1 to 3', '2', '–')
    """
    if interval is None or None in interval:
        return UNDEFINED
    low, high = (f"{end:g}" for end in interval)
    return low if low == high else f"{low} to {high}"


def spearman(value: float | None, interval: list[float | None] | None = None) -> str:
    """Write a rank correlation, with its interval where there is one.

    Args:
        value: between −1 and 1, None where undefined.
        interval: its ends, None where undefined.

    Returns:
        The text; a dash where it is undefined.

    Example:
        >>> spearman(0.9857, [0.9, 1.0]), spearman(-0.5)
        ('0.99 [0.90, 1.00]', '−0.50')
    """
    if value is None or interval is None or None in interval:
        return fixed(value)
    low, high = interval
    return f"{fixed(value)} [{fixed(low)}, {fixed(high)}]"


def small_title(text: str, size: int = 11) -> alt.Title:
    """Make the title of one panel of several."""
    weight = "normal" if size < 12 else 600
    return alt.Title(text, fontSize=size, fontWeight=weight, offset=6, frame="group")


def drawn(rows: list[dict[str, Any]], tooltip: dict[str, str] | None = None) -> ChartType:
    """Start a chart on rows of plain values.

    Args:
        rows: what is drawn; None where a value is undefined.
        tooltip: field → title; each field holds text that is ready for reading.

    Returns:
        A chart without a mark.
    """
    chart = alt.Chart(alt.InlineData(values=rows))
    if tooltip is None:
        return chart
    return chart.encode(
        tooltip=[alt.Tooltip(f"{name}:N", title=title) for name, title in tooltip.items()]
    )


def defined(chart: ChartType, *fields: str) -> ChartType:
    """Leave out the rows in which one of some fields is undefined."""
    return chart.transform_filter(" && ".join(f"isValid(datum.{name})" for name in fields))
