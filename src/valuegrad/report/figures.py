"""The figures of a study: every predictor against the gain, and the predicted ranking.

Each function takes the study document and gives one chart. Those that put gains beside predictions
are in ``gain_figures.py``, those of the components in ``component_figures.py``. Wall-clock times
enter none of them.
"""

from __future__ import annotations

from typing import Any

import altair as alt
from altair.typing import ChartType

from valuegrad.report.component_figures import budgets, components
from valuegrad.report.findings import (
    Document,
    column,
    ranked,
    ranks,
    sorted_predictors,
    why_undefined,
)
from valuegrad.report.gain_figures import gain, scatter, z_scores
from valuegrad.report.readiness_figures import readiness
from valuegrad.report.theme import (
    CHOSEN,
    INK,
    MEASURED,
    PAPER,
    QUIET,
    UNDEFINED,
    defined,
    drawn,
    number,
    p_value,
    rank_interval,
    share,
    small_title,
    spearman,
    themed,
)
from valuegrad.study.predictors import MEANING

ROW = 23  # pixels a row of a horizontal chart
SAME = 1e-9  # rank correlations closer than this are the same


def figures(document: Document) -> dict[str, ChartType]:
    """Draw every figure that a study has the measurements for.

    Args:
        document: ``study.json`` as read from disk.

    Returns:
        The charts by name, in reading order: ``predictors``, ``ranking``, ``gain``, ``scatter``,
        ``readiness``, ``budgets`` and ``z_scores``; ``ranking``, ``readiness`` and ``components``
        where RL was not run.
    """
    trained = [predictors, ranking, gain, scatter, readiness, budgets, z_scores]
    charts = trained if document["trained"] else [ranking, readiness, components]
    return {chart.__name__: themed(chart(document)) for chart in charts}


def predictors(document: Document) -> ChartType:
    """Compare all predictors: Spearman correlation with the mean gain, and its 95% interval.

    Args:
        document: of a study that ran RL.

    Returns:
        One row a predictor, the highest correlation first and undefined ones last.
    """
    found = sorted_predictors(document)
    rows = [_predictor_row(document, name) for name in found]
    base = drawn(
        rows,
        {
            "predictor": "predictor",
            "meaning": "what it is",
            "text": "Spearman [95% interval]",
            "p": "p-value",
            "partial": "partial, given the reward before",
            "regret": "regret (reward)",
            "why": "undefined because",
        },
    )
    colours = {document["ranked_by"]: CHOSEN, "p_gap": PAPER}
    y = alt.Y(
        "predictor:N",
        scale={"domain": list(found)},
        title=None,
        axis={
            "ticks": False,
            "domain": False,
            "labelFontSize": 12,
            "labelPadding": 10,
            "labelColor": _by_name(colours, INK),
            "labelFontWeight": _by_name(dict.fromkeys(colours, 600), 400),
        },
    )
    x = {
        "title": "Spearman rank correlation with the mean gain (bar: 95% interval)",
        "scale": {"domain": [-1, 1]},
        "axis": {"values": [-1, -0.5, 0, 0.5, 1], "format": ".1~f"},
    }
    colour = alt.Color("colour:N", scale=None)
    zero = drawn([{"rho": 0}]).mark_rule(color=QUIET).encode(x=alt.X("rho:Q", **x))
    intervals = (
        defined(base, "low", "high")
        .mark_rule(strokeWidth=4, opacity=0.4)
        .encode(x=alt.X("low:Q", **x), x2="high:Q", y=y, color=colour)
    )
    points = defined(base, "rho").mark_point(size=90, filled=True, opacity=1)
    points = points.encode(x=alt.X("rho:Q", **x), y=y, color=colour)
    height = {"step": ROW}
    plot = alt.layer(zero, intervals, points).properties(width=420, height=height)
    bare = alt.Y("predictor:N", scale={"domain": list(found)}, axis=None)
    columns = [
        base.mark_text(align="left", fontSize=12, x=0)
        .encode(y=bare, text=f"{name}:N", color=alt.Color("text colour:N", scale=None))
        .properties(width=width, height=height, title=small_title(header))
        for name, width, header in (
            ("text", 140, "Spearman [95% interval]"),
            ("meaning", 280, "what it is"),
        )
    ]
    return alt.hconcat(plot, *columns, spacing=16).properties(
        title=alt.Title(_predictors_title(document), subtitle=_predictors_subtitle(document))
    )


def ranking(document: Document) -> ChartType:
    """Show the predicted ranking: intervals of the ranks, and the probability of being the best.

    Args:
        document: of a study, with or without RL.

    Returns:
        One row a checkpoint, the predicted best first; the measured rank beside the predicted one
        where RL was run.
    """
    rows = _ranking_rows(document)
    base = drawn(
        rows,
        {
            "checkpoint": "checkpoint",
            "value": document["ranked_by"],
            "rank": "predicted rank",
            "interval": "95% rank interval",
            "chance text": "P(best)",
            "measured text": "measured rank",
        },
    )
    order = {"domain": [row["checkpoint"] for row in rows]}
    axis = {"ticks": False, "domain": False, "labelPadding": 10}
    y = alt.Y("checkpoint:N", scale=order, title=None, axis=axis)
    last = len(rows)
    x = {
        "title": "rank (1 gains most)",
        "scale": {"domain": [0.5, last + 0.5], "nice": False},
        "axis": {"values": list(range(1, last + 1, -(-last // 20))), "format": "d"},
    }
    intervals = (
        defined(base, "low", "high")
        .mark_rule(strokeWidth=8, opacity=0.25, color=CHOSEN, strokeCap="round")
        .encode(x=alt.X("low:Q", **x), x2="high:Q", y=y)
    )
    predicted = defined(base, "low").mark_point(size=60, filled=True, opacity=1, color=CHOSEN)
    predicted = predicted.encode(x=alt.X("rank:Q", **x), y=y)
    measured = (
        defined(base, "measured")
        .mark_point(size=120, filled=False, strokeWidth=1.6, opacity=1, color=MEASURED)
        .encode(x=alt.X("measured:Q", **x), y=y)
    )
    height = {"step": ROW}
    left = alt.layer(intervals, predicted, measured).properties(width=500, height=height)
    chances = base.encode(
        y=alt.Y("checkpoint:N", scale=order, axis=None),
        x=alt.X(
            "chance:Q",
            scale={"domain": [0, 1]},
            axis={"format": ".0%", "values": [0, 0.25, 0.5, 0.75, 1]},
            title="probability of gaining most",
        ),
    )
    bars = chances.mark_bar(color=CHOSEN, height={"band": 0.5})
    texts = chances.transform_filter("datum.chance >= 0.01")
    texts = texts.mark_text(align="left", dx=5, color=INK).encode(text="chance text:N")
    right = alt.layer(bars, texts).properties(width=280, height=height)
    return alt.hconcat(left, right, spacing=36).properties(
        title=alt.Title(_ranking_title(document), subtitle=_ranking_subtitle(document))
    )


def _predictor_row(document: Document, name: str) -> dict[str, Any]:
    found = document["predictors"][name]
    rho, interval = found["spearman_gain"], found["spearman_gain_interval"]
    colour = {document["ranked_by"]: CHOSEN, "p_gap": PAPER}.get(name)
    return {
        "predictor": name,
        "meaning": MEANING.get(name, ""),
        "rho": rho,
        "low": interval[0],
        "high": interval[1],
        "text": "undefined" if rho is None else spearman(rho, interval),
        "p": p_value(found["p_value"]),
        "partial": number(found["partial_given_reward"]),
        "regret": number(found["regret"]),
        "why": why_undefined(found["reasons"], "spearman") if rho is None else UNDEFINED,
        "colour": colour or QUIET,
        "text colour": colour or INK,
    }


def _by_name(values: dict[str, Any], otherwise: Any) -> dict[str, Any]:
    """Make an axis property depend on the label."""
    conditions = [
        {"test": f"datum.value == '{name}'", "value": value} for name, value in values.items()
    ]
    return {"condition": conditions, "value": otherwise}


def _predictors_title(document: Document) -> str:
    found = {name: p["spearman_gain"] for name, p in sorted_predictors(document).items()}
    known = {name: rho for name, rho in found.items() if rho is not None}
    if not known:
        return "No predictor's correlation with the gain is defined"
    highest = max(known.values())
    best = [name for name, rho in known.items() if highest - rho < SAME]
    names = " and ".join(best) if len(best) < 3 else f"{best[0]} and {len(best) - 1} others"
    title = f"{names} predict{'s' if len(best) == 1 else ''} the order of the gains best"
    if document["ranked_by"] not in best:
        return f"{title}; the ranking goes by {document['ranked_by']}"
    if known.get("p_gap", 0) < 0:
        return f"{title}; the paper's p_gap predicts the reverse"
    return title


def _predictors_subtitle(document: Document) -> str:
    found = list(document["predictors"].values())
    if all(p["spearman_gain"] is None for p in found):
        return f"Reason: {why_undefined(found[0]['reasons'], 'spearman')}."
    return (
        "1: the order of the measured gains; 0: no relation; −1: the reverse order. "
        "Blue: what the ranking goes by. Orange: the paper's score."
    )


def _ranking_rows(document: Document) -> list[dict[str, Any]]:
    measured, values = ranks(column(document, "gain_mean")), column(document, document["ranked_by"])
    labels = column(document, "label")
    rows = []
    for place, i in enumerate(ranked(document)):
        low, high = document["rank_intervals"][place]
        chance = document["best_probability"][place]
        rows.append(
            {
                "checkpoint": labels[i],
                "value": number(values[i]),
                "rank": place + 1,
                "low": low,
                "high": high,
                "interval": rank_interval([low, high]),
                "chance": chance,
                "chance text": share(chance),
                "measured": measured[i],
                "measured text": number(measured[i]),
            }
        )
    return rows


def _ranking_title(document: Document) -> str:
    chance = document["best_probability"][0]
    if chance is None:
        return f"Nothing ranks the checkpoints: {document['ranked_by']} is undefined for all"
    first = document["checkpoints"][ranked(document)[0]]["label"]
    return f"{first} is predicted to gain most, with probability {share(chance)}"


def _ranking_subtitle(document: Document) -> str:
    text = "Blue: the predicted rank and its 95% interval, from the standard errors over prompts."
    return text + (" Circle: the measured rank." if document["trained"] else "")
