"""Figures of a study: every predictor against the gain, and the predicted ranking.

Each function takes the study document and gives one chart; the charts that put gains beside
predictions are in ``gain_figures.py``. Wall-clock times enter none of them.
"""

from __future__ import annotations

from typing import Any

import altair as alt

from valuegrad.report import gain_figures
from valuegrad.report.findings import Document, axis_names, column, ranked, ranks, why_undefined
from valuegrad.report.theme import (
    CHOSEN,
    FAINT,
    MEASURED,
    PAPER,
    QUIET,
    UNDEFINED,
    number,
    p_value,
    rank_interval,
    share,
    spearman,
    themed,
)
from valuegrad.study.predictors import MEANING

ROW = 24  # pixels a row of a horizontal chart


def figures(document: Document) -> dict[str, alt.Chart]:
    """Draw every figure that a study has the measurements for.

    Args:
        document: ``study.json`` as read from disk.

    Returns:
        The charts by name, in reading order: ``predictors``, ``ranking``, ``gain``, ``scatter``,
        ``budgets`` and ``z_scores``; ``ranking`` and ``components`` where RL was not run.
    """
    drawn = {"ranking": ranking, "components": gain_figures.components}
    if document["trained"]:
        drawn = {
            "predictors": predictors,
            "ranking": ranking,
            "gain": gain_figures.gain,
            "scatter": gain_figures.scatter,
            "budgets": gain_figures.budgets,
            "z_scores": gain_figures.z_scores,
        }
    return {name: themed(draw(document)) for name, draw in drawn.items()}


def predictors(document: Document) -> alt.Chart:
    """Compare all predictors: Spearman correlation with the mean gain, and its 95% interval.

    Args:
        document: of a study that ran RL.

    Returns:
        One row a predictor, the highest correlation first and undefined ones last.
    """
    rows = [
        _predictor_row(name, found, document) for name, found in sorted_predictors(document).items()
    ]
    order = [row["predictor"] for row in rows]
    colour = alt.Color("colour:N", scale=None)
    y = alt.Y(
        "predictor:N",
        sort=order,
        title=None,
        axis=alt.Axis(ticks=False, domain=False, labelFontSize=12, labelPadding=8),
    )
    tooltip = [
        alt.Tooltip(f"{name}:N", title=title)
        for name, title in (
            ("predictor", "predictor"),
            ("meaning", "what it is"),
            ("spearman", "Spearman, 95% interval"),
            ("p", "p-value"),
            ("partial", "partial, given the reward before"),
            ("regret", "regret (reward)"),
            ("why", "undefined because"),
        )
    ]
    x = alt.X(
        "rho:Q",
        scale=alt.Scale(domain=[-1, 1]),
        axis=alt.Axis(values=[-1, -0.5, 0, 0.5, 1], format=".1~f"),
        title="Spearman rank correlation with the mean gain (bar: 95% interval)",
    )
    base = alt.Chart(alt.Data(values=rows)).encode(y=y, tooltip=tooltip)
    zero = alt.Chart(alt.Data(values=[{"rho": 0}])).mark_rule(color=QUIET).encode(x="rho:Q")
    intervals = (
        base.transform_filter("isValid(datum.low) && isValid(datum.high)")
        .mark_rule(strokeWidth=3, opacity=0.45)
        .encode(x=alt.X("low:Q", title=None), x2="high:Q", color=colour)
    )
    points = (
        base.transform_filter("isValid(datum.rho)")
        .mark_point(size=90, filled=True, opacity=1)
        .encode(x=x, color=colour)
    )
    # An invisible point a row keeps undefined predictors on the axis.
    holder = base.mark_point(opacity=0).encode(x=alt.datum(0))
    height = {"step": ROW}
    plot = alt.layer(zero, holder, intervals, points).properties(width=460, height=height)
    texts = [
        base.mark_text(align="left", fontSize=12, x=0).encode(
            y=alt.Y("predictor:N", sort=order, axis=None), text=f"{name}:N", color=colour
        )
        for name in ("spearman", "meaning")
    ]
    columns = [
        text.properties(
            width=width,
            height=height,
            title=alt.Title(title, fontSize=11, fontWeight="normal", offset=4),
        )
        for text, width, title in zip(
            texts, (120, 280), ("Spearman [95% interval]", "what it is"), strict=True
        )
    ]
    return alt.hconcat(plot, *columns, spacing=16).properties(
        title=alt.Title(_predictors_title(document), subtitle=_predictors_subtitle(document))
    )


def sorted_predictors(document: Document) -> dict[str, dict[str, Any]]:
    """Sort a document's predictors by correlation with the gain, undefined ones last.

    Args:
        document: of a study that ran RL.

    Returns:
        The entries of ``predictors``; of equal ones the one that the ranking goes by comes first.
    """

    def key(item: tuple[str, dict[str, Any]]) -> tuple[float, bool]:
        rho = item[1]["spearman_gain"]
        return (2 if rho is None else -rho, item[0] != document["ranked_by"])

    return dict(sorted(document["predictors"].items(), key=key))


def _predictor_row(name: str, found: dict[str, Any], document: Document) -> dict[str, Any]:
    rho, interval = found["spearman_gain"], found["spearman_gain_interval"]
    colours = {document["ranked_by"]: CHOSEN, "p_gap": PAPER}
    return {
        "predictor": name,
        "meaning": MEANING.get(name, ""),
        "rho": rho,
        "low": interval[0],
        "high": interval[1],
        "spearman": "undefined" if rho is None else spearman(rho, interval),
        "p": p_value(found["p_value"]),
        "partial": number(found["partial_given_reward"]),
        "regret": number(found["regret"]),
        "why": why_undefined(found["reasons"], "spearman") if rho is None else UNDEFINED,
        "colour": colours.get(name, QUIET),
    }


def _predictors_title(document: Document) -> str:
    chosen = document["ranked_by"]
    found = {n: p["spearman_gain"] for n, p in document["predictors"].items()}
    known = {n: rho for n, rho in found.items() if rho is not None}
    if not known:
        return "No predictor's correlation with the gain is defined"
    best = max(known, key=lambda n: (known[n], n == chosen))
    title = f"{best} ranks the checkpoints by their gain best"
    if best != chosen:
        return f"{title}; the ranking goes by {chosen}"
    paper = known.get("p_gap")
    if paper is not None and paper < 0:
        return f"{title}; the paper's p_gap ranks them backwards"
    return title


def _predictors_subtitle(document: Document) -> str:
    undefined = [n for n, p in document["predictors"].items() if p["spearman_gain"] is None]
    if len(undefined) == len(document["predictors"]) and undefined:
        reasons = document["predictors"][undefined[0]]["reasons"]
        return f"Reason: {why_undefined(reasons, 'spearman')}."
    return "1 orders them exactly as RL did, 0 is no better than chance, −1 is the reverse order."


def ranking(document: Document) -> alt.Chart:
    """Show the predicted ranking: intervals of the ranks, and the probability of being the best.

    Args:
        document: of a study, with or without RL.

    Returns:
        One row a checkpoint, the predicted best first; the measured rank beside the predicted one
        where RL was run.
    """
    measured = ranks(column(document, "gain_mean"))
    labels = column(document, "label")
    rows = []
    for place, i in enumerate(ranked(document)):
        low, high = document["rank_intervals"][place] or (None, None)
        chance = document["best_probability"][place]
        rows.append(
            {
                "checkpoint": labels[i],
                "rank": place + 1,
                "low": low,
                "high": high,
                "interval": rank_interval([low, high]),
                "measured": measured[i],
                "measured rank": number(measured[i]),
                "chance": chance,
                "chance text": share(chance),
                document["ranked_by"]: number(column(document, document["ranked_by"])[i]),
            }
        )
    height = {"step": 22}
    y = alt.Y("checkpoint:N", sort=None, title=None, axis=alt.Axis(ticks=False, domain=False))
    shown = (document["ranked_by"], "rank", "interval", "chance text", "measured rank")
    titles = {"interval": "95% rank interval", "chance text": "P(best)", "rank": "predicted rank"}
    tooltip = [alt.Tooltip("checkpoint:N")] + [
        alt.Tooltip(f"{name}:N", title=titles.get(name, name)) for name in shown
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(y=y, tooltip=tooltip)
    last = max(len(rows), 2)
    x = alt.X(
        "rank:Q",
        scale=alt.Scale(domain=[0.5, last + 0.5], nice=False),
        axis=alt.Axis(tickMinStep=1, format="d", tickCount=min(last, 15), grid=True),
        title="rank (1 = gains most)",
    )
    kinds = alt.Scale(
        domain=["predicted", "measured"] if document["trained"] else ["predicted"],
        range=[CHOSEN, MEASURED],
    )
    legend = alt.Legend(title=None, orient="top", offset=4)
    intervals = (
        base.transform_filter("isValid(datum.low) && isValid(datum.high)")
        .mark_rule(strokeWidth=7, opacity=0.25, color=CHOSEN, strokeCap="round")
        .encode(x=alt.X("low:Q", title=None), x2="high:Q")
    )
    predicted = base.mark_point(size=70, filled=True, opacity=1).encode(
        x=x, color=alt.Color("kind:N", scale=kinds, legend=legend)
    )
    predicted = predicted.transform_calculate(kind="'predicted'")
    measured_points = (
        base.transform_filter("isValid(datum.measured)")
        .transform_calculate(kind="'measured'")
        .mark_point(size=110, filled=False, strokeWidth=1.6, opacity=1)
        .encode(x=alt.X("measured:Q", title=None), color=alt.Color("kind:N", scale=kinds))
    )
    left = alt.layer(intervals, predicted, measured_points).properties(width=480, height=height)
    y_bare = alt.Y("checkpoint:N", sort=None, axis=None)
    chance = base.encode(
        y=y_bare,
        x=alt.X(
            "chance:Q",
            scale=alt.Scale(domain=[0, 1]),
            axis=alt.Axis(format=".0%", values=[0, 0.25, 0.5, 0.75, 1]),
            title="probability of gaining most",
        ),
    )
    bars = chance.mark_bar(color=CHOSEN, height={"band": 0.55})
    texts = chance.mark_text(align="left", dx=5, color=QUIET).encode(text="chance text:N")
    right = alt.layer(bars, texts).properties(width=300, height=height)
    return alt.hconcat(left, right, spacing=36).properties(
        title=alt.Title(_ranking_title(document), subtitle=_ranking_subtitle(document))
    )


def _ranking_title(document: Document) -> str:
    first = document["checkpoints"][ranked(document)[0]]["label"]
    if document["best_probability"][0] is None:
        return "No checkpoint can be ranked: the predictor is undefined for all"
    return f"{first} is predicted to gain most, with probability {share(_first_chance(document))}"


def _first_chance(document: Document) -> float | None:
    found: float | None = document["best_probability"][0]
    return found


def _ranking_subtitle(document: Document) -> str:
    return f"By {document['ranked_by']}; bands are 95% rank intervals, from the standard errors over prompts."


__all__ = ["figures", "predictors", "ranking", "sorted_predictors"]
_ = (FAINT, axis_names)
