"""The sampling gap against its bounds (Prop. 2), and along the trajectory (Fig. 2)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
from altair.typing import ChartType

from valuegrad.report.numbers import number
from valuegrad.report.theme import (
    CHOSEN,
    INK,
    MEASURED,
    PAPER,
    WIDTH,
    curve,
    drawn,
    small_title,
    titled,
)

SERIES = {
    "gap": ("measured gap", MEASURED),
    "bound_linear": ("sharp bound, N·min(½, 1−‖p‖², H)", CHOSEN),
    "bound_paper": ("the paper's, N·2C√(H/log V)", PAPER),
}
COLUMNS = 5
LARGEST = 340
Row = Mapping[str, Any]


def bound_chart(points: Sequence[Row], summary: Row) -> ChartType:
    """Gap and bounds over the entropy on log axes, a panel a checkpoint, above the medians."""
    checkpoints = summary["checkpoints"]
    columns = min(COLUMNS, len(checkpoints))
    size = min(WIDTH // columns - 50, LARGEST)
    lows, highs = _steps(points), _range(points)
    entropy = {
        "scale": alt.Scale(type="log", domain=[lows[0], lows[-1]]),
        "axis": alt.Axis(values=lows, format="~g"),
    }
    norm = {"scale": alt.Scale(type="log", domain=highs), "axis": _powers(highs)}
    titles, colours = zip(*SERIES.values(), strict=True)
    colour = alt.Color(
        "series:N",
        scale=alt.Scale(domain=titles, range=colours),
        legend=alt.Legend(title=None, orient="top", columns=3, offset=4),
    )
    panels = []
    for place, row in enumerate(checkpoints):
        lowest, leftmost = place + COLUMNS >= len(checkpoints), place % COLUMNS == 0
        panel = drawn(_rows(points, row), {"series": "what", "prompt": "end of the prompt"})
        panels.append(
            panel.mark_point(filled=True, size=14, opacity=0.7)
            .encode(
                x=alt.X("entropy:Q", title="entropy (nats)" if lowest else None, **entropy),
                y=alt.Y("value:Q", title="norm (log)" if leftmost else None, **norm),
                color=colour,
            )
            .properties(width=size, height=size, title=small_title(_label(row)))
        )
    whole = alt.concat(*panels, columns=columns, spacing={"row": 14, "column": 14})
    if len(checkpoints) > 1:
        whole = alt.vconcat(whole, _trajectory(checkpoints), spacing=28)
    subtitle = [
        f"Every point over the entropy of the next token, N = (1/τ) ‖∂h/∂e‖ ‖E‖ ‖W‖. In the median "
        f"the sharp bound is still {number(summary['looseness'], 2)} times the gap."
    ]
    return titled(whole, _title(summary), subtitle)


def _title(summary: Row) -> str:
    if summary["violations"]:
        return f"{summary['violations']} of {summary['points']} points break a bound"
    tighter = number(summary["tighter"], 2)
    return f"The sampling gap stays below its bounds, the sharp one {tighter} times tighter"


def _rows(points: Sequence[Row], checkpoint: Row) -> list[dict[str, Any]]:
    return [
        {"entropy": p["entropy"], "value": p[name], "series": title, "prompt": p["prompt"][-40:]}
        for p in points
        if p["checkpoint"] == checkpoint["checkpoint"]
        for name, (title, _) in SERIES.items()
        if p["entropy"] > 0 and p[name] > 0
    ]


def _trajectory(checkpoints: Sequence[Row]) -> ChartType:
    axis = "step" if all(row["step"] is not None for row in checkpoints) else "checkpoint"
    panels = []
    for name, title in (("gap", "median gap"), ("entropy", "median entropy (nats)")):
        rows = [
            {
                "x": i if row["step"] is None else row["step"],
                "value": row[name],
                "label": _label(row),
            }
            for i, row in enumerate(checkpoints)
        ]
        base = drawn(rows, {"label": "checkpoint"}).encode(
            x=alt.X("x:Q", title=axis), y=alt.Y("value:Q", title=None)
        )
        panel = curve(base, 30, "value", {"strokeWidth": 1.5, "color": INK}, color=INK)
        panels.append(panel.properties(width=WIDTH // 2 - 70, height=150, title=small_title(title)))
    return alt.hconcat(*panels, spacing=30)


def _steps(points: Sequence[Row]) -> list[float]:
    """Entropies of the form 1, 2, 5 times a power of ten around what is drawn."""
    values = [p["entropy"] for p in points if p["entropy"] > 0 and p["gap"] > 0] or [1.0]
    low, high = (math.floor(math.log10(end)) for end in (min(values), max(values)))
    marks = [m * 10.0**e for e in range(low, high + 2) for m in (1, 2, 5)]
    first = max(i for i, mark in enumerate(marks) if mark <= min(values) * (1 + 1e-9))
    last = min(i for i, mark in enumerate(marks) if mark >= max(values))
    chosen = marks[first : max(last, first + 1) + 1]
    # Both ends stay, and in between no more than fit.
    return chosen if len(chosen) <= 5 else [chosen[0], *chosen[3:-1:3], chosen[-1]]


def _range(points: Sequence[Row]) -> list[float]:
    """Whole powers of ten around what is drawn, the same in every panel."""
    values = [p[name] for p in points for name in SERIES if p["entropy"] > 0 and p[name] > 0]
    if not values:
        return [0.1, 1.0]
    low, high = (math.floor(math.log10(end)) for end in (min(values), max(values)))
    return [10.0**low, 10.0 ** (high + 1)]


def _powers(domain: Sequence[float]) -> alt.Axis:
    low, high = (round(math.log10(end)) for end in domain)
    values = [10.0**e for e in range(low, high + 1, max(1, (high - low + 3) // 4))]
    return alt.Axis(values=values, format=".0e")


def _label(row: Row) -> str:
    return str(row["checkpoint"]).rstrip("/").rsplit("/", 1)[-1]
