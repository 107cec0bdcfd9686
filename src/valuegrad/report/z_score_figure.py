"""z-scores of gain and prediction, correlated and along the trajectory (Fig. 5)."""

from typing import Any

import altair as alt
import numpy as np
from altair.typing import ChartType

from valuegrad.report.findings import mean_gains, measurements
from valuegrad.report.gain_figures import LINES, compared, panel_title
from valuegrad.report.numbers import fixed
from valuegrad.report.theme import MEASURED, QUIET, dots, drawn, spans, titled
from valuegrad.report.trajectory import checkpoint_axis, checkpoint_rows
from valuegrad.study import statistics
from valuegrad.study.result import StudyResult
from valuegrad.study.statistics import FloatArray

HEIGHT = 230  # pixels
AXIS = {"tickCount": 5}


def z_scores(result: StudyResult) -> ChartType:
    """A row a predictor: the correlation on the left, the curve per checkpoint on the right."""
    rows = [_row(result, name, colour) for name, colour in compared(result).items()]
    return titled(
        alt.vconcat(*rows, spacing=24).resolve_scale(color="independent"),
        "On one scale: gain and prediction in standard deviations from the mean checkpoint",
        "Bars: ± one standard deviation of the gain over the numbers of updates.",
    )


def _row(result: StudyResult, name: str, colour: str) -> ChartType:
    gains, values = (
        statistics.z_scores(v) for v in (mean_gains(result), measurements(result, name))
    )
    rows = [
        {
            **row,
            "gain": gain,
            "value": value,
            "low": gain - spread,
            "high": gain + spread,
            "gain text": fixed(gain),
            "text": fixed(value),
        }
        for row, gain, value, spread in zip(
            checkpoint_rows(result), gains, values, _spread_over_updates(result), strict=True
        )
    ]
    tooltip = {"checkpoint": "checkpoint", "gain text": "z(mean gain)", "text": f"z({name})"}
    left = _cloud(rows, tooltip, colour).properties(
        width=300, height=HEIGHT, title=panel_title(result, name)
    )
    colours = {"mean gain": MEASURED, name: colour}
    right = _curves(rows, tooltip, colours, checkpoint_axis(result, 500)).properties(
        width=500, height=HEIGHT
    )
    return alt.hconcat(left, right, spacing=36).resolve_scale(color="independent")


def _cloud(rows: list[dict[str, Any]], tooltip: dict[str, str], colour: str) -> ChartType:
    """One point a checkpoint, and the line on which gain and prediction are equal."""
    base, title = drawn(rows, tooltip), tooltip["gain text"]
    x = alt.X("value:Q", title=tooltip["text"], axis=AXIS)
    y = alt.Y("gain:Q", title=title, axis=AXIS)
    points = dots(base, 70, "value", "gain").encode(x=x, y=y, color=alt.value(colour))
    pairs = [(row["gain"], row["value"]) for row in rows]
    both = [z for pair in pairs if np.isfinite(pair).all() for z in pair]
    ends = [{"value": end, "gain": end} for end in (min(both), max(both))] if both else []
    equal = drawn(ends).mark_line(strokeDash=[4, 4], strokeWidth=1, color=QUIET).encode(x=x, y=y)
    return alt.layer(equal, spans(base, title, "value").encode(x=x), points)


def _curves(
    rows: list[dict[str, Any]], tooltip: dict[str, str], colours: dict[str, str], x: alt.X
) -> ChartType:
    """The gain and the prediction, by the names that the colours give them."""
    fields = dict(zip(colours, ("gain", "value"), strict=True))
    long = [
        {**row, "series": name, "z": row[field]} for row in rows for name, field in fields.items()
    ]
    title = "standard deviations"
    scale = {"domain": list(colours), "range": list(colours.values())}
    base = drawn(long, tooltip).encode(
        x=x,
        y=alt.Y("z:Q", title=title, axis=AXIS),
        color=alt.Color("series:N", scale=scale, legend=LINES),
    )
    bars = spans(drawn(rows), title).encode(x=x)
    return alt.layer(bars, base.mark_line(strokeWidth=2), dots(base, 35, "z"))


def _spread_over_updates(result: StudyResult) -> FloatArray:
    """The deviation of each gain over numbers of updates, in deviations of the mean gain."""
    unit = float(np.std(mean_gains(result)))
    return np.array(
        [
            float(np.std(list(found.gain_by_updates.values()), ddof=1)) / unit
            if len(found.gain_by_updates) > 1 and unit > 0
            else np.nan
            for found in result.checkpoints
        ]
    )
