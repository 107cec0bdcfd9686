"""The look of the figures: colours and type, and the marks and titles that they share."""

from typing import Any

import altair as alt
from altair.typing import ChartType

from valuegrad.files import plain

WIDTH = 1000  # pixels; what a figure may take across, axes and legends included
ROW = 23  # pixels a row of a figure that lists names

# Okabe and Ito's colours, which stay apart for colour-blind readers.
CHOSEN = "#0072b2"  # the predictor that the ranking goes by, and its predictions
PAPER = "#d55e00"  # the paper's own score
MEASURED = "#1f2328"
QUIET = "#8b939c"
FAINT = "#d9dde2"
INK = "#3d444c"

LINES = {"columnPadding": 20, "symbolType": "stroke", "symbolSize": 260}
"""A legend of lines."""

_TEXT = {
    "labelFontSize": 11,
    "titleFontSize": 11,
    "titleFontWeight": "normal",
    "labelColor": INK,
    "titleColor": INK,
}


def specification(chart: ChartType) -> str:
    """A finished chart in Vega-Lite's JSON, with the type, colours and grid that all share."""
    whole = chart.configure(
        font="system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
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
            **_TEXT,
            "gridColor": "#eceff2",
            "domainColor": FAINT,
            "tickColor": FAINT,
            "titlePadding": 8,
            "labelLimit": 0,  # Names that are cut off may be alike.
        },
        legend={**_TEXT, "labelLimit": 0, "titleLimit": 320, "symbolStrokeWidth": 2},
    )
    return str(whole.to_json(indent=None, sort_keys=False))


def titled(chart: ChartType, text: str, subtitle: Any = alt.Undefined) -> ChartType:
    """Put the sentence that a figure shows above it, and how to read it below that."""
    return chart.properties(title=alt.Title(text, subtitle=subtitle))


def series_colour(field: str, colours: dict[str, str], **legend: Any) -> alt.Color:
    """A colour for each name of a field, with a legend above the panel."""
    return alt.Color(
        f"{field}:N",
        scale={"domain": list(colours), "range": list(colours.values())},
        legend={"title": None, "orient": "top", "offset": 4, **legend},
    )


def small_title(text: str, size: int = 11) -> alt.Title:
    """The title of one panel of several."""
    weight = "normal" if size < 12 else 600
    return alt.Title(text, fontSize=size, fontWeight=weight, offset=6, frame="group")


def drawn(rows: list[dict[str, Any]], tooltip: dict[str, str] | None = None) -> ChartType:
    """A chart without a mark on rows of plain values; the tooltip is field → title, all text."""
    chart = alt.Chart(alt.InlineData(values=plain(rows)))
    texts = [alt.Tooltip(f"{name}:N", title=title) for name, title in (tooltip or {}).items()]
    return chart.encode(tooltip=texts) if texts else chart


def defined(chart: ChartType, *fields: str) -> ChartType:
    """Leave out the rows in which one of some fields is undefined."""
    conditions = " && ".join(f"isValid(datum.{name})" for name in fields)
    return chart.transform_filter(conditions) if fields else chart


def dots(chart: ChartType, size: int, *fields: str, **mark: Any) -> ChartType:
    """A filled point a row in which some fields are defined."""
    look = {"filled": True, "size": size, "opacity": 1, **mark}
    return defined(chart, *fields).mark_point(**look)


def curve(chart: ChartType, size: int, field: str, line: dict[str, Any], **mark: Any) -> ChartType:
    """A line with a point at every row in which a field is defined."""
    return alt.layer(chart.mark_line(**line), dots(chart, size, field, **mark))


def intervals(chart: ChartType, x: dict[str, Any], **mark: Any) -> ChartType:
    """A horizontal bar from the field ``low`` to ``high`` where both are defined."""
    bars = defined(chart, "low", "high").mark_rule(**mark)
    return bars.encode(x=alt.X("low:Q", **x), x2="high:Q")


def spans(chart: ChartType, title: str, *fields: str, **mark: Any) -> ChartType:
    """A vertical bar from the field ``low`` to ``high`` where both are defined."""
    bars = defined(chart, *fields, "low").mark_rule(**{"color": QUIET, **mark})
    return bars.encode(y=alt.Y("low:Q", title=title), y2="high:Q")
