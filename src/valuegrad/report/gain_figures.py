"""Measured gains beside what the ranking goes by over the trajectory (Fig. 1).

What was fitted to measured gains is no prediction of them, and stands in no figure as one.
"""

import math

import altair as alt
from altair.typing import ChartType

from valuegrad.report import findings, theme
from valuegrad.report.numbers import fixed, number
from valuegrad.report.trajectory import checkpoint_axis, checkpoint_rows
from valuegrad.study.result import StudyResult


def gain(result: StudyResult) -> ChartType:
    """Each checkpoint's mean gain, the range of its seeds, the predictor, the reward before."""
    series = {
        "measured gain": findings.mean_gains(result),
        result.ranked_by: findings.measurements(result, result.ranked_by),
        "reward before RL": findings.measurements(result, "reward_before"),
    }
    texts = {f"text{k}": map(number, values) for k, values in enumerate(series.values())}
    low, high = zip(*map(findings.seed_range, result.checkpoints), strict=True)
    rows = checkpoint_rows(result, **texts, low=low, high=high)
    long = [
        {**row, "series": name, "value": value}
        for name, values in series.items()
        for row, value in zip(rows, values, strict=True)
    ]
    tooltip = {"checkpoint": "checkpoint", **dict(zip(texts, series, strict=True))}
    width = 900
    x = checkpoint_axis(result, width)
    y = alt.Y("value:Q", title="reward", axis={"tickCount": 6})
    dashes = {"domain": list(series), "range": [[1, 0], [5, 3], [2, 3]]}
    colours = dict(zip(series, (theme.MEASURED, theme.CHOSEN, theme.QUIET), strict=True))
    colour = theme.series_colour("series", colours, **theme.LINES)
    base = theme.drawn(long, tooltip).encode(x=x, y=y, color=colour)
    lines = base.mark_line(strokeWidth=2).encode(
        strokeDash=alt.StrokeDash("series:N", scale=dashes, legend=colour["legend"])
    )
    bar = {"strokeWidth": 6, "opacity": 0.3, "color": theme.MEASURED}
    seeds = theme.spans(theme.drawn(rows), "reward", **bar).encode(x=x)
    zero = theme.drawn([{"value": 0}]).mark_rule(color=theme.QUIET).encode(y=y)
    whole = alt.layer(zero, seeds, lines, theme.dots(base, 45, "value"))
    subtitle = [
        "Every gain is a mean over the numbers of updates; bars: lowest to highest seed.",
        f"{result.ranked_by} was measured before any RL run.",
    ]
    return theme.titled(whole.properties(width=width, height=300), _title(result), subtitle)


def _title(result: StudyResult) -> str:
    best = findings.best_measured(result)
    if best is None:
        return "No checkpoint's mean gain is defined"
    found = result.checkpoints[best]
    value = findings.measurements(result, result.ranked_by)[best]
    text = f"{found.label} gained most: {fixed(found.gain_mean, sign=True)} reward"
    return text if math.isnan(value) else f"{text}, {result.ranked_by} {fixed(value, sign=True)}"
