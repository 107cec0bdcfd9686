"""Figures that hold measured gains against predictions: the paper's Figures 1, 4 and 5."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
from altair.typing import ChartType

from valuegrad.report.findings import (
    Document,
    best_measured,
    column,
    prediction,
    seed_range,
)
from valuegrad.report.theme import (
    CHOSEN,
    MEASURED,
    PAPER,
    QUIET,
    defined,
    drawn,
    fixed,
    number,
    small_title,
)
from valuegrad.report.trajectory import (
    checkpoint_axis,
    checkpoint_colour,
    checkpoint_rows,
    wide_scale,
)
from valuegrad.study.statistics import z_scores as standardised

Z_HEIGHT = 230  # pixels
CLEAR = 0.3  # rank correlations nearer to 0 than this are called no clear relation
LINES = {
    "title": None,
    "orient": "top",
    "offset": 4,
    "columnPadding": 20,
    "symbolType": "stroke",
    "symbolSize": 260,
}
"""A legend of lines, above its panel."""


def gain(document: Document) -> ChartType:
    """Draw the measured and predicted gain of each checkpoint in order (Figs. 1 and 4).

    Args:
        document: of a study that ran RL.

    Returns:
        One panel in reward units: the mean gain with the range of its seeds, the prediction, and
        the reward before RL for scale.
    """
    predicted = prediction(document)
    law = f"predicted gain, {predicted.law}" if predicted.law else document["ranked_by"]
    series = {
        "measured gain": column(document, "gain_mean"),
        law: predicted.gains,
        "reward before RL": column(document, "reward_before"),
    }
    rows = checkpoint_rows(document)
    for i, row in enumerate(rows):
        row |= {f"text{k}": number(values[i]) for k, values in enumerate(series.values())}
        row["low"], row["high"] = seed_range(document["checkpoints"][i])
    long = [
        {**row, "series": name, "value": value}
        for name, values in series.items()
        for row, value in zip(rows, values, strict=True)
    ]
    tooltip = {"checkpoint": "checkpoint", **{f"text{k}": name for k, name in enumerate(series)}}
    width = 900
    x = checkpoint_axis(document, width)
    y = alt.Y("value:Q", title="reward", axis={"tickCount": 6})
    scale = {"domain": list(series), "range": [MEASURED, CHOSEN, QUIET]}
    dashes = {"domain": list(series), "range": [[1, 0], [5, 3], [2, 3]]}
    base = drawn(long, tooltip).encode(
        x=x, y=y, color=alt.Color("series:N", scale=scale, legend=LINES)
    )
    lines = base.mark_line(strokeWidth=2).encode(
        strokeDash=alt.StrokeDash("series:N", scale=dashes, legend=LINES)
    )
    points = defined(base, "value").mark_point(filled=True, size=45, opacity=1)
    spread = defined(drawn(rows), "low").mark_rule(strokeWidth=6, opacity=0.3, color=MEASURED)
    spread = spread.encode(x=x, y=alt.Y("low:Q", title="reward"), y2="high:Q")
    zero = drawn([{"value": 0}]).mark_rule(color=QUIET).encode(y=y)
    return alt.layer(zero, spread, lines, points).properties(
        width=width,
        height=300,
        title=alt.Title(_gain_title(document), subtitle=_gain_subtitle(document)),
    )


def scatter(document: Document) -> ChartType:
    """Draw the gain against the predictor that the ranking goes by, beside the paper's score.

    Args:
        document: of a study that ran RL.

    Returns:
        Two panels, one point a checkpoint, coloured from early to late.
    """
    panels = [_scatter_panel(document, name) for name in _compared(document)]
    return alt.hconcat(*panels, spacing=40).properties(
        title=alt.Title(
            _relation_title(document),
            subtitle="One point a checkpoint; bars: ± one standard deviation over seeds.",
        )
    )


def z_scores(document: Document) -> ChartType:
    """Draw z-scores of gain and prediction, correlated and along the trajectory (Fig. 5).

    Args:
        document: of a study that ran RL.

    Returns:
        A row for the predictor that the ranking goes by and one for the paper's score: the
        correlation on the left, the curve per checkpoint on the right. Bars span the budgets.
    """
    rows = [_z_row(document, name, colour) for name, colour in _compared(document).items()]
    return (
        alt.vconcat(*rows, spacing=24)
        .resolve_scale(color="independent")
        .properties(
            title=alt.Title(
                "On one scale: gain and prediction in standard deviations from the mean checkpoint",
                subtitle="Bars: ± one standard deviation of the gain over the numbers of updates.",
            )
        )
    )


def _compared(document: Document) -> dict[str, str]:
    return {document["ranked_by"]: CHOSEN, "p_gap": PAPER}


def _gain_title(document: Document) -> str:
    best = best_measured(document)
    if best is None:
        return "No checkpoint's mean gain is defined"
    label, gain = document["checkpoints"][best]["label"], column(document, "gain_mean")[best]
    predicted = prediction(document)
    text = f"{label} gained most: {fixed(gain, sign=True)} reward"
    return f"{text}, predicted {fixed(predicted.gains[best], sign=True)}" if predicted.law else text


def _gain_subtitle(document: Document) -> list[str]:
    predicted = prediction(document)
    what = "Every gain is a mean over the numbers of updates; bars span the seeds."
    if predicted.error is None:
        return [f"No law of {document['ranked_by']} could be fitted: it is drawn itself.", what]
    error = f"root mean square error {number(predicted.error, 2)} reward"
    return [f"Each prediction knows all checkpoints but its own; {error}.", what]


def _relation_title(document: Document) -> str:
    if all(document["predictors"][n]["spearman_gain"] is None for n in _compared(document)):
        return "The gain's relation to its predictors is undefined"
    verbs = []
    for name in _compared(document):
        rho = document["predictors"][name]["spearman_gain"]
        if rho is None:
            verbs.append(f"has no defined relation to {name}")
        elif abs(rho) < CLEAR:
            verbs.append(f"has no clear relation to {name}")
        else:
            verbs.append(f"{'rises' if rho > 0 else 'falls'} with {name}")
    return "The gain " + " and ".join(dict.fromkeys(verbs))


def _panel_title(document: Document, name: str) -> alt.Title:
    rho = document["predictors"][name]["spearman_gain"]
    text = "undefined" if rho is None else fixed(rho)
    return small_title(f"{name}: Spearman {text}", 12)


def _scatter_panel(document: Document, name: str) -> ChartType:
    values, gains = column(document, name), column(document, "gain_mean")
    deviations = column(document, "gain_deviation")
    rows = [
        {**row, "value": v, "gain": g, **_bar(g, d), "text": number(v), "gain text": number(g)}
        for row, v, g, d in zip(checkpoint_rows(document), values, gains, deviations, strict=True)
    ]
    unit = "paper's score, (Σ − Λ) × headroom" if name == "p_gap" else "reward"
    x = alt.X("value:Q", title=f"{name} ({unit})", **wide_scale(values))
    tooltip = {"checkpoint": "checkpoint", "text": name, "gain text": "mean gain (reward)"}
    base = defined(drawn(rows, tooltip), "value", "gain").encode(x=x)
    title = "mean gain (reward)"
    bars = defined(base, "low").mark_rule(color=QUIET)
    bars = bars.encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    points = base.mark_point(filled=True, size=90, opacity=1)
    points = points.encode(y=alt.Y("gain:Q", title=title), color=checkpoint_colour(document))
    return alt.layer(bars, points).properties(
        width=380, height=280, title=_panel_title(document, name)
    )


def _z_row(document: Document, name: str, colour: str) -> ChartType:
    z_gain, z_value = _z(column(document, "gain_mean")), _z(column(document, name))
    spreads = _spread_over_budgets(document)
    rows = [
        {**row, "gain": g, "value": v, **_bar(g, s), "gain text": fixed(g), "text": fixed(v)}
        for row, g, v, s in zip(checkpoint_rows(document), z_gain, z_value, spreads, strict=True)
    ]
    left = _z_cloud(rows, name, colour).properties(title=_panel_title(document, name))
    right = _z_curves(rows, name, colour, checkpoint_axis(document, 500)).properties(width=500)
    return alt.hconcat(left, right, spacing=36).resolve_scale(color="independent")


def _z_cloud(rows: list[dict[str, Any]], name: str, colour: str) -> ChartType:
    base = drawn(rows, _z_tooltip(name))
    axis, title = {"tickCount": 5}, "z(mean gain)"
    x, y = alt.X("value:Q", title=f"z({name})", axis=axis), alt.Y("gain:Q", title=title, axis=axis)
    points = defined(base, "value", "gain").mark_point(filled=True, size=70, opacity=1)
    points = points.encode(x=x, y=y, color=alt.value(colour))
    bars = defined(base, "value", "low").mark_rule(color=QUIET)
    bars = bars.encode(x=x, y=alt.Y("low:Q", title=title), y2="high:Q")
    pairs = [(row["gain"], row["value"]) for row in rows]
    both = [z for pair in pairs if None not in pair for z in pair]
    ends = [{"value": end, "gain": end} for end in (min(both), max(both))] if both else []
    equal = drawn(ends).mark_line(strokeDash=[4, 4], strokeWidth=1, color=QUIET).encode(x=x, y=y)
    return alt.layer(equal, bars, points).properties(width=300, height=Z_HEIGHT)


def _z_curves(rows: list[dict[str, Any]], name: str, colour: str, x: alt.X) -> ChartType:
    series = {"mean gain": "gain", name: "value"}
    long = [
        {**row, "series": shown, "z": row[field]} for row in rows for shown, field in series.items()
    ]
    title = "standard deviations"
    scale = {"domain": list(series), "range": [MEASURED, colour]}
    curves = drawn(long, _z_tooltip(name)).encode(
        x=x,
        y=alt.Y("z:Q", title=title, axis={"tickCount": 5}),
        color=alt.Color("series:N", scale=scale, legend=LINES),
    )
    bars = defined(drawn(rows), "low").mark_rule(color=QUIET)
    bars = bars.encode(x=x, y=alt.Y("low:Q", title=title), y2="high:Q")
    points = defined(curves, "z").mark_point(filled=True, size=35, opacity=1)
    return alt.layer(bars, curves.mark_line(strokeWidth=2), points).properties(height=Z_HEIGHT)


def _z_tooltip(name: str) -> dict[str, str]:
    return {"checkpoint": "checkpoint", "gain text": "z(mean gain)", "text": f"z({name})"}


def _bar(middle: float | None, half: float | None) -> dict[str, float | None]:
    if middle is None or half is None:
        return {"low": None, "high": None}
    return {"low": middle - half, "high": middle + half}


def _z(values: Sequence[float | None]) -> list[float | None]:
    z = standardised(np.array([np.nan if v is None else v for v in values], dtype=float))
    return [None if math.isnan(v) else v for v in z.tolist()]


def _spread_over_budgets(document: Document) -> list[float | None]:
    """Give the deviation of each gain over budgets, in deviations of the mean gain."""
    gains = column(document, "gain_mean")
    if None in gains or len(set(gains)) < 2:
        return [None] * len(gains)
    unit = float(np.std(gains))
    by_updates = [list(c["gain_by_updates"].values()) for c in document["checkpoints"]]
    return [
        None if None in g or len(g) < 2 else float(np.std(g, ddof=1)) / unit for g in by_updates
    ]
