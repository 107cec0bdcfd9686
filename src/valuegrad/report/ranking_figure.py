"""The figure of the predicted ranking (Eq. 31): intervals of ranks, chances of being the best."""

import math
from typing import Any

import altair as alt
from altair.typing import ChartType
from scipy import stats

from valuegrad.report.findings import chosen, mean_gains, measurements, ranked
from valuegrad.report.numbers import number, rank_interval, share
from valuegrad.report.theme import CHOSEN, INK, MEASURED, ROW, dots, drawn, intervals, titled
from valuegrad.study.result import StudyResult


def ranking(result: StudyResult) -> ChartType:
    """One row a checkpoint, the predicted best first, with its measured rank where RL was run."""
    rows = _rows(result)
    tooltip = {
        "checkpoint": "checkpoint",
        "value": result.ranked_by,
        "rank": f"rank by {result.ranked_by}",
        "interval": "95% interval of it",
        "chance text": "P(best)",
        "measured text": "measured rank",
    }
    base, scale = drawn(rows, tooltip), {"domain": [row["checkpoint"] for row in rows]}
    axis = {"ticks": False, "domain": False, "labelPadding": 10}
    marks = base.encode(y=alt.Y("checkpoint:N", scale=scale, title=None, axis=axis))
    last = len(rows)
    x = {
        "title": "rank (1 gains most)",
        "scale": {"domain": [0.5, last + 0.5], "nice": False},
        "axis": {"values": list(range(1, last + 1, -(-last // 20))), "format": "d"},
    }
    bar = {"strokeWidth": 8, "opacity": 0.25, "color": CHOSEN, "strokeCap": "round"}
    predicted = dots(marks, 60, "low", color=CHOSEN).encode(x=alt.X("rank:Q", **x))
    circle = {"filled": False, "strokeWidth": 1.6, "color": MEASURED}
    measured = dots(marks, 120, "measured", **circle).encode(x=alt.X("measured:Q", **x))
    height = {"step": ROW}
    spans = intervals(marks, x, **bar)
    left = alt.layer(spans, predicted, measured, width=500, height=height)
    chances = base.encode(
        y=alt.Y("checkpoint:N", scale=scale, axis=None),
        x=alt.X(
            "chance:Q",
            scale={"domain": [0, 1]},
            axis={"format": ".0%", "values": [0, 0.25, 0.5, 0.75, 1]},
            title=f"probability of the highest {result.ranked_by}",
        ),
    )
    bars = chances.mark_bar(color=CHOSEN, height={"band": 0.5})
    texts = chances.transform_filter("datum.chance >= 0.01")
    texts = texts.mark_text(align="left", dx=5, color=INK).encode(text="chance text:N")
    right = alt.layer(bars, texts, width=280, height=height)
    subtitle = (
        f"Blue: the rank by {result.ranked_by} and its 95% interval, over held-out prompts, "
        "the same for all."
    )
    subtitle += " Circle: the measured rank." if result.trained else ""
    chance = result.best_probability[0]
    first = f"{chosen(result).label} has the highest {result.ranked_by}"
    title = f"{first}, with probability {share(chance)}"
    if math.isnan(chance):
        title = f"Nothing ranks the checkpoints: {result.ranked_by} is undefined for all"
    return titled(alt.hconcat(left, right, spacing=36), title, subtitle)


def _rows(result: StudyResult) -> list[dict[str, Any]]:
    values = measurements(result, result.ranked_by)
    measured = stats.rankdata(-mean_gains(result), nan_policy="omit")
    rows = []
    for place, i in enumerate(ranked(result)):
        (low, high), chance = result.rank_intervals[place], result.best_probability[place]
        rows.append(
            {
                "checkpoint": result.checkpoints[i].label,
                "value": number(values[i]),
                "rank": place + 1,
                "low": low,
                "high": high,
                "interval": rank_interval((low, high)),
                "chance": chance,
                "chance text": share(chance),
                "measured": measured[i],
                "measured text": number(measured[i]),
            }
        )
    return rows
