"""The gain against predictors (Fig. 4), and both as z-scores along the trajectory (Fig. 5)."""

import math
from typing import Any

import altair as alt
import numpy as np
from altair.typing import ChartType

from valuegrad.report import theme, trajectory
from valuegrad.report.findings import mean_gains, measurements
from valuegrad.report.numbers import fixed, number
from valuegrad.study.result import StudyResult
from valuegrad.study.vectors import FloatArray
from valuegrad.study.z_scores import z_scores as standardised

CLEAR = 0.3  # rank correlations nearer to 0 than this are called no clear relation
HEIGHT = 230  # pixels
AXIS = {"tickCount": 5}


def scatter(result: StudyResult) -> ChartType:
    """The gain against the ranking's predictor, and against the paper's score."""
    panels = [_scatter_panel(result, name) for name in compared(result)]
    subtitle = "One point a checkpoint; bars: ± one standard deviation over seeds."
    return theme.titled(alt.hconcat(*panels, spacing=40), _relation_title(result), subtitle)


def z_scores(result: StudyResult) -> ChartType:
    """A row a predictor: the correlation on the left, the curve per checkpoint on the right."""
    rows = [_row(result, name, colour) for name, colour in compared(result).items()]
    return theme.titled(
        alt.vconcat(*rows, spacing=24).resolve_scale(color="independent"),
        "On one scale: gain and prediction in standard deviations from the mean checkpoint",
        "Bars: ± one standard deviation of the gain over the numbers of updates.",
    )


def compared(result: StudyResult) -> dict[str, str]:
    """The two predictors that are held against the gain, and their colours."""
    return {result.ranked_by: theme.CHOSEN, "p_gap": theme.PAPER}


def panel_title(result: StudyResult, name: str) -> alt.Title:
    """A predictor with its rank correlation."""
    rho = result.predictors[name].spearman_gain
    text = "undefined" if math.isnan(rho) else fixed(rho)
    return theme.small_title(f"{name}: Spearman {text}", 12)


def _relation_title(result: StudyResult) -> str:
    found = {name: result.predictors[name].spearman_gain for name in compared(result)}
    if all(map(math.isnan, found.values())):
        return "The gain's relation to its predictors is undefined"
    verbs = []
    for name, rho in found.items():
        if math.isnan(rho):
            verbs.append(f"has no defined relation to {name}")
        elif abs(rho) < CLEAR:
            verbs.append(f"has no clear relation to {name}")
        else:
            verbs.append(f"{'rises' if rho > 0 else 'falls'} with {name}")
    return "The gain " + " and ".join(verbs)


def _scatter_panel(result: StudyResult, name: str) -> ChartType:
    values = measurements(result, name)
    gains = mean_gains(result)
    spread = np.array([found.gain_deviation for found in result.checkpoints])
    columns = {"value": values, "gain": gains, "low": gains - spread, "high": gains + spread}
    texts = {"text": map(number, values), "gain text": map(number, gains)}
    rows = trajectory.checkpoint_rows(result, **columns, **texts)
    unit = "paper's score, (Σ − Λ) × headroom" if name == "p_gap" else "reward"
    tooltip = {"checkpoint": "checkpoint", "text": name, "gain text": "mean gain (reward)"}
    base = theme.defined(theme.drawn(rows, tooltip), "value", "gain").encode(
        x=alt.X("value:Q", title=f"{name} ({unit})", **trajectory.wide_scale(values))
    )
    title = "mean gain (reward)"
    points = theme.dots(base, 90).encode(
        y=alt.Y("gain:Q", title=title), color=trajectory.checkpoint_colour(result)
    )
    bars, above = theme.spans(base, title), panel_title(result, name)
    return alt.layer(bars, points, width=380, height=280, title=above)


def _row(result: StudyResult, name: str, colour: str) -> ChartType:
    gains = standardised(mean_gains(result))
    values = standardised(measurements(result, name))
    spread = _spread_over_updates(result)
    columns = {"gain": gains, "value": values, "low": gains - spread, "high": gains + spread}
    texts = {"gain text": map(fixed, gains), "text": map(fixed, values)}
    rows = trajectory.checkpoint_rows(result, **columns, **texts)
    tooltip = {"checkpoint": "checkpoint", "gain text": "z(mean gain)", "text": f"z({name})"}
    left = _cloud(rows, tooltip, colour).properties(title=panel_title(result, name))
    series = (("mean gain", "gain"), (name, "value"))
    long = [{**row, "series": text, "z": row[field]} for row in rows for text, field in series]
    colours = {"mean gain": theme.MEASURED, name: colour}
    x, title = trajectory.checkpoint_axis(result, 500), "standard deviations"
    base = theme.drawn(long, tooltip).encode(
        x=x,
        y=alt.Y("z:Q", title=title, axis=AXIS),
        color=theme.series_colour("series", colours, **theme.LINES),
    )
    bars = theme.spans(theme.drawn(rows), title).encode(x=x)
    lines, points = base.mark_line(strokeWidth=2), theme.dots(base, 35, "z")
    right = alt.layer(bars, lines, points, width=500, height=HEIGHT)
    return alt.hconcat(left, right, spacing=36).resolve_scale(color="independent")


def _cloud(rows: list[dict[str, Any]], tooltip: dict[str, str], colour: str) -> ChartType:
    """One point a checkpoint, and the line on which gain and prediction are equal."""
    base, title = theme.drawn(rows, tooltip), tooltip["gain text"]
    x = alt.X("value:Q", title=tooltip["text"], axis=AXIS)
    y = alt.Y("gain:Q", title=title, axis=AXIS)
    points = theme.dots(base, 70, "value", "gain").encode(x=x, y=y, color=alt.value(colour))
    both = [row[field] for row in rows for field in ("gain", "value")]
    ends = (min(both), max(both)) if np.isfinite(both).all() else ()
    equal = theme.drawn([{"value": end, "gain": end} for end in ends]).encode(x=x, y=y)
    equal = equal.mark_line(strokeDash=[4, 4], strokeWidth=1, color=theme.QUIET)
    bars = theme.spans(base, title, "value").encode(x=x)
    return alt.layer(equal, bars, points, width=300, height=HEIGHT)


def _spread_over_updates(result: StudyResult) -> FloatArray:
    """The deviation of each gain over numbers of updates, in deviations of the mean gain."""
    unit = float(np.std(mean_gains(result)))
    gains = np.array([list(found.gain_by_updates.values()) for found in result.checkpoints])
    if gains.shape[1] < 2 or not unit > 0:
        return np.full(len(gains), np.nan)
    return np.asarray(gains.std(axis=1, ddof=1) / unit)
