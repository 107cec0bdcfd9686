"""Measured gains beside predictions, over the trajectory and over the scores (Figs. 1 and 4)."""

import math

import altair as alt
from altair.typing import ChartType

from valuegrad.report.findings import (
    Prediction,
    best_measured,
    mean_gains,
    measurements,
    prediction,
    seed_range,
)
from valuegrad.report.numbers import fixed, number
from valuegrad.report.theme import (
    CHOSEN,
    MEASURED,
    PAPER,
    QUIET,
    defined,
    dots,
    drawn,
    small_title,
    spans,
    titled,
)
from valuegrad.report.trajectory import (
    checkpoint_axis,
    checkpoint_colour,
    checkpoint_rows,
    wide_scale,
)
from valuegrad.study.result import StudyResult

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


def gain(result: StudyResult) -> ChartType:
    """Each checkpoint's mean gain, the range of its seeds, the prediction, the reward before."""
    predicted = prediction(result)
    series = {
        "measured gain": mean_gains(result),
        f"predicted gain, {predicted.law}" if predicted.law else result.ranked_by: predicted.gains,
        "reward before RL": measurements(result, "reward_before"),
    }
    rows = checkpoint_rows(result)
    for i, row in enumerate(rows):
        row |= {f"text{k}": number(values[i]) for k, values in enumerate(series.values())}
        row["low"], row["high"] = seed_range(result.checkpoints[i])
    long = [
        {**row, "series": name, "value": value}
        for name, values in series.items()
        for row, value in zip(rows, values, strict=True)
    ]
    tooltip = {"checkpoint": "checkpoint", **{f"text{k}": name for k, name in enumerate(series)}}
    width = 900
    x = checkpoint_axis(result, width)
    y = alt.Y("value:Q", title="reward", axis={"tickCount": 6})
    scale = {"domain": list(series), "range": [MEASURED, CHOSEN, QUIET]}
    dashes = {"domain": list(series), "range": [[1, 0], [5, 3], [2, 3]]}
    base = drawn(long, tooltip).encode(
        x=x, y=y, color=alt.Color("series:N", scale=scale, legend=LINES)
    )
    lines = base.mark_line(strokeWidth=2).encode(
        strokeDash=alt.StrokeDash("series:N", scale=dashes, legend=LINES)
    )
    seeds = spans(drawn(rows), "reward", strokeWidth=6, opacity=0.3, color=MEASURED).encode(x=x)
    zero = drawn([{"value": 0}]).mark_rule(color=QUIET).encode(y=y)
    whole = alt.layer(zero, seeds, lines, dots(base, 45, "value"))
    title, subtitle = _gain_title(result, predicted), _gain_subtitle(result, predicted)
    return titled(whole.properties(width=width, height=300), title, subtitle)


def scatter(result: StudyResult) -> ChartType:
    """The gain against the ranking's predictor, and against the paper's score."""
    panels = [_scatter_panel(result, name) for name in compared(result)]
    subtitle = "One point a checkpoint; bars: ± one standard deviation over seeds."
    return titled(alt.hconcat(*panels, spacing=40), _relation_title(result), subtitle)


def compared(result: StudyResult) -> dict[str, str]:
    """The two predictors that are held against the gain, and their colours."""
    return {result.ranked_by: CHOSEN, "p_gap": PAPER}


def panel_title(result: StudyResult, name: str) -> alt.Title:
    """A predictor with its rank correlation."""
    rho = result.predictors[name].spearman_gain
    return small_title(f"{name}: Spearman {'undefined' if math.isnan(rho) else fixed(rho)}", 12)


def _gain_title(result: StudyResult, predicted: Prediction) -> str:
    best = best_measured(result)
    if best is None:
        return "No checkpoint's mean gain is defined"
    found = result.checkpoints[best]
    text = f"{found.label} gained most: {fixed(found.gain_mean, sign=True)} reward"
    return f"{text}, predicted {fixed(predicted.gains[best], sign=True)}" if predicted.law else text


def _gain_subtitle(result: StudyResult, predicted: Prediction) -> list[str]:
    what = "Every gain is a mean over the numbers of updates; bars span the seeds."
    if not predicted.law:
        return [f"No law of {result.ranked_by} could be fitted: it is drawn itself.", what]
    error = f"root mean square error {number(predicted.error, 2)} reward"
    return [f"Each prediction knows all checkpoints but its own; {error}.", what]


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
    rows = [
        {
            **row,
            "value": value,
            "gain": found.gain_mean,
            "low": found.gain_mean - found.gain_deviation,
            "high": found.gain_mean + found.gain_deviation,
            "text": number(value),
            "gain text": number(found.gain_mean),
        }
        for row, value, found in zip(
            checkpoint_rows(result), values, result.checkpoints, strict=True
        )
    ]
    unit = "paper's score, (Σ − Λ) × headroom" if name == "p_gap" else "reward"
    tooltip = {"checkpoint": "checkpoint", "text": name, "gain text": "mean gain (reward)"}
    base = defined(drawn(rows, tooltip), "value", "gain").encode(
        x=alt.X("value:Q", title=f"{name} ({unit})", **wide_scale(values))
    )
    title = "mean gain (reward)"
    points = dots(base, 90).encode(y=alt.Y("gain:Q", title=title), color=checkpoint_colour(result))
    return alt.layer(spans(base, title), points).properties(
        width=380, height=280, title=panel_title(result, name)
    )
