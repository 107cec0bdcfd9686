"""The sampling gap against its bounds, and along the trajectory: the paper's Figure 2."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
from altair.typing import ChartType

from valuegrad.report.theme import (
    CHOSEN,
    INK,
    MEASURED,
    PAPER,
    WIDTH,
    defined,
    drawn,
    number,
    small_title,
)

SERIES = {
    "gap": ("measured gap", MEASURED),
    "bound_linear": ("sharp bound, N·min(½, 1−‖p‖², H)", CHOSEN),
    "bound_paper": ("the paper's, N·2C√(H/log V)", PAPER),
}
COLUMNS = 5
LARGEST = 340


def bound_chart(points: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> ChartType:
    """Draw gap and bounds over the entropy, one panel a checkpoint, above the trajectory.

    Args:
        points: from `bound_points`.
        summary: from `summarise_bounds`.

    Returns:
        The panels on log axes, and two panels with the medians of gap and entropy.
    """
    count = len(summary["checkpoints"])
    panels = alt.concat(
        *(_panel(points, row, i, count) for i, row in enumerate(summary["checkpoints"])),
        columns=min(COLUMNS, count),
        spacing={"row": 14, "column": 14},
    )
    whole = panels if count == 1 else alt.vconcat(panels, _trajectory(summary), spacing=28)
    return whole.properties(title=_title(summary))


def _title(summary: Mapping[str, Any]) -> alt.Title:
    broken, tighter = summary["violations"], number(summary["tighter"], 2)
    text = (
        f"{broken} of {summary['points']} points break a bound"
        if broken
        else f"The sampling gap stays below its bounds, the sharp one {tighter} times tighter"
    )
    subtitle = [
        f"Every point over the entropy of the next token, N = (1/τ) ‖∂h/∂e‖ ‖E‖ ‖W‖. In the median "
        f"the sharp bound is still {number(summary['looseness'], 2)} times the gap."
    ]
    return alt.Title(text, subtitle=subtitle)


def _panel(
    points: Sequence[Mapping[str, Any]], row: Mapping[str, Any], place: int, count: int
) -> ChartType:
    rows = [
        {"entropy": p["entropy"], "value": p[name], "series": title, "prompt": p["prompt"][-40:]}
        for p in points
        if p["checkpoint"] == row["checkpoint"]
        for name, (title, _) in SERIES.items()
        if p["entropy"] > 0 and p[name] > 0
    ]
    size = min(WIDTH // min(COLUMNS, count) - 50, LARGEST)
    lows, highs = _steps(points), _range(points, list(SERIES))
    return (
        drawn(rows, {"series": "what", "prompt": "end of the prompt"})
        .mark_point(filled=True, size=14, opacity=0.7)
        .encode(
            x=alt.X(
                "entropy:Q",
                title="entropy (nats)" if place + COLUMNS >= count else None,
                scale=alt.Scale(type="log", domain=[lows[0], lows[-1]]),
                axis=alt.Axis(values=lows, format="~g"),
            ),
            y=alt.Y(
                "value:Q",
                title="norm (log)" if place % COLUMNS == 0 else None,
                scale=alt.Scale(type="log", domain=highs),
                axis=_powers(highs),
            ),
            color=alt.Color(
                "series:N",
                scale=alt.Scale(
                    domain=[title for title, _ in SERIES.values()],
                    range=[colour for _, colour in SERIES.values()],
                ),
                legend=alt.Legend(title=None, orient="top", columns=3, offset=4),
            ),
        )
        .properties(width=size, height=size, title=small_title(_label(row)))
    )


def _trajectory(summary: Mapping[str, Any]) -> ChartType:
    panels = []
    for name, title in (("gap", "median gap"), ("entropy", "median entropy (nats)")):
        rows = [
            {"x": _place(row, i), "value": row[name], "label": _label(row)}
            for i, row in enumerate(summary["checkpoints"])
        ]
        base = drawn(rows, {"label": "checkpoint"}).encode(
            x=alt.X("x:Q", title="step" if _has_steps(summary) else "checkpoint"),
            y=alt.Y("value:Q", title=None),
        )
        points = defined(base, "value").mark_point(filled=True, size=30, opacity=1, color=INK)
        panels.append(
            alt.layer(base.mark_line(strokeWidth=1.5, color=INK), points).properties(
                width=WIDTH // 2 - 70, height=150, title=small_title(title)
            )
        )
    return alt.hconcat(*panels, spacing=30)


def _steps(points: Sequence[Mapping[str, Any]]) -> list[float]:
    """Entropies of the form 1, 2, 5 times a power of ten around what is drawn."""
    values = [p["entropy"] for p in points if p["entropy"] > 0 and p["gap"] > 0] or [1.0]
    low, high = (math.floor(math.log10(end)) for end in (min(values), max(values)))
    marks = [m * 10.0**e for e in range(low, high + 2) for m in (1, 2, 5)]
    first = max(i for i, mark in enumerate(marks) if mark <= min(values) * (1 + 1e-9))
    last = min(i for i, mark in enumerate(marks) if mark >= max(values))
    chosen = marks[first : max(last, first + 1) + 1]
    # Ends stay, and in between no more than there is room for.
    return chosen if len(chosen) <= 5 else [chosen[0], *chosen[3:-1:3], chosen[-1]]


def _range(points: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[float]:
    """Whole powers of ten around what is drawn, the same in every panel."""
    values = [p[name] for p in points for name in names if p["entropy"] > 0 and p[name] > 0]
    if not values:
        return [0.1, 1.0]
    low, high = (math.floor(math.log10(end)) for end in (min(values), max(values)))
    return [10.0**low, 10.0 ** (high + 1)]


def _powers(domain: Sequence[float]) -> alt.Axis:
    exponents = [round(math.log10(end)) for end in domain]
    step = max(1, (exponents[1] - exponents[0] + 3) // 4)
    values = [10.0**e for e in range(exponents[0], exponents[1] + 1, step)]
    return alt.Axis(values=values, format=".0e")


def _label(row: Mapping[str, Any]) -> str:
    return str(row["checkpoint"]).rstrip("/").rsplit("/", 1)[-1]


def _has_steps(summary: Mapping[str, Any]) -> bool:
    return all(row["step"] is not None for row in summary["checkpoints"])


def _place(row: Mapping[str, Any], i: int) -> int:
    return i if row["step"] is None else int(row["step"])
