"""The figure that compares predictors: rank correlation with the mean gain, and its interval."""

import math
from typing import Any

import altair as alt
from altair.typing import ChartType

from valuegrad.report import theme
from valuegrad.report.findings import reason, sorted_predictors
from valuegrad.report.numbers import UNDEFINED, fixed, number, p_value
from valuegrad.study.predictors import meaning
from valuegrad.study.result import PredictorResult, StudyResult

SAME = 1e-9  # rank correlations closer than this are the same
TOOLTIP = {
    "predictor": "predictor",
    "meaning": "what it is",
    "text": "Spearman [95%, over seeds]",
    "p": "p-value",
    "partial": "partial, given the reward before",
    "given step": "partial, given the step",
    "regret": "regret (reward)",
    "why": "undefined because",
}


def predictors(result: StudyResult) -> ChartType:
    """One row a predictor, the highest correlation first and undefined ones last."""
    colours = {result.ranked_by: theme.CHOSEN, "p_gap": theme.PAPER}
    found = sorted_predictors(result)
    base = theme.drawn([_row(name, p, colours.get(name)) for name, p in found.items()], TOOLTIP)
    scale = {"domain": list(found)}
    axis = {
        "ticks": False,
        "domain": False,
        "labelFontSize": 12,
        "labelPadding": 10,
        "labelColor": _by_name(colours, theme.INK),
        "labelFontWeight": _by_name(dict.fromkeys(colours, 600), 400),
    }
    x = {
        "title": "Spearman rank correlation with the mean gain (bar: 95%, over seeds)",
        "scale": {"domain": [-1, 1]},
        "axis": {"values": [-1, -0.5, 0, 0.5, 1], "format": ".1~f"},
    }
    marks = base.encode(
        y=alt.Y("predictor:N", scale=scale, title=None, axis=axis),
        color=alt.Color("colour:N", scale=None),
    )
    zero = theme.drawn([{"rho": 0}]).mark_rule(color=theme.QUIET).encode(x=alt.X("rho:Q", **x))
    bars = theme.intervals(marks, x, strokeWidth=4, opacity=0.4)
    points = theme.dots(marks, 90, "rho").encode(x=alt.X("rho:Q", **x))
    height = {"step": theme.ROW}
    plot = alt.layer(zero, bars, points, width=420, height=height)
    columns = [
        base.mark_text(align="left", fontSize=12, x=0)
        .encode(
            y=alt.Y("predictor:N", scale=scale, axis=None),
            text=f"{name}:N",
            color=alt.Color("text colour:N", scale=None),
        )
        .properties(width=width, height=height, title=theme.small_title(TOOLTIP[name]))
        for name, width in (("text", 160), ("meaning", 280))
    ]
    return theme.titled(alt.hconcat(plot, *columns, spacing=16), _title(result), _subtitle(result))


def _row(name: str, found: PredictorResult, colour: str | None) -> dict[str, Any]:
    rho, (low, high) = found.spearman_gain, found.spearman_gain_interval
    undefined = math.isnan(rho)
    interval = "" if math.isnan(low) or math.isnan(high) else f" [{fixed(low)}, {fixed(high)}]"
    return {
        "predictor": name,
        "meaning": meaning(name),
        "rho": rho,
        "low": low,
        "high": high,
        "text": "undefined" if undefined else fixed(rho) + interval,
        "p": p_value(found.p_value),
        "partial": number(found.partial_given_reward),
        "given step": number(found.partial_given_step),
        "regret": number(found.regret),
        "why": reason(found.reasons, "spearman") if undefined else UNDEFINED,
        "colour": colour or theme.QUIET,
        "text colour": colour or theme.INK,
    }


def _by_name(values: dict[str, Any], otherwise: Any) -> dict[str, Any]:
    """An axis property that depends on the label."""
    conditions = [
        {"test": f"datum.value == '{name}'", "value": value} for name, value in values.items()
    ]
    return {"condition": conditions, "value": otherwise}


def _title(result: StudyResult) -> str:
    found = ((name, p.spearman_gain) for name, p in sorted_predictors(result).items())
    known = {name: rho for name, rho in found if not math.isnan(rho)}
    if not known:
        return "No predictor's correlation with the gain is defined"
    highest = max(known.values())
    best = [name for name, rho in known.items() if highest - rho < SAME]
    names = " and ".join(best) if len(best) < 3 else f"{best[0]} and {len(best) - 1} others"
    title = f"{names} predict{'s' if len(best) == 1 else ''} the order of the gains best"
    if result.ranked_by not in best:
        return f"{title}; the ranking goes by {result.ranked_by}"
    if known.get("p_gap", 0) < 0:
        return f"{title}; the paper's p_gap predicts the reverse"
    return title


def _subtitle(result: StudyResult) -> str:
    found = list(result.predictors.values())
    if all(math.isnan(p.spearman_gain) for p in found):
        return f"Reason: {reason(found[0].reasons, 'spearman')}."
    return (
        "1: the order of the measured gains; 0: no relation; −1: the reverse order. "
        "Blue: what the ranking goes by. Orange: the paper's score."
    )
