"""The sampling gap against its bounds (Prop. 2), and along the trajectory (Fig. 2)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
from altair.typing import ChartType

from valuegrad.checkpoints.names import common_steps, labels
from valuegrad.report import theme
from valuegrad.report.numbers import number

SERIES = {
    "gap": ("measured gap", theme.MEASURED),
    "bound_covariance": ("bound by covariances", theme.CHOSEN),
    "bound_linear": ("sharp bound, N·min(½, 1−‖p‖², H)", theme.QUIET),
    "bound_paper": ("the paper's, N·2C√(H/log V)", theme.PAPER),
}
COLUMNS = 5
LARGEST = 340
Row = Mapping[str, Any]


def bound_chart(points: Sequence[Row], summary: Row) -> ChartType:
    """Gap and bounds over the entropy on log axes, a panel a checkpoint, above the medians."""
    checkpoints = summary["checkpoints"]
    columns = min(COLUMNS, len(checkpoints))
    size = min(theme.WIDTH // columns - 50, LARGEST)
    entropy, norm = _entropies(points), _norms(points)
    colour = theme.series_colour("series", dict(SERIES.values()), columns=4)
    panels, names = [], labels([row["checkpoint"] for row in checkpoints])
    for place, row in enumerate(checkpoints):
        lowest, leftmost = place + COLUMNS >= len(checkpoints), place % COLUMNS == 0
        rows = [
            {
                "entropy": p["entropy"],
                "value": p[name],
                "series": title,
                "prompt": p["prompt"][-40:],
            }
            for p in points
            if p["checkpoint"] == row["checkpoint"]
            for name, (title, _) in SERIES.items()
            if p["entropy"] > 0 and p[name] > 0
        ]
        panel = theme.drawn(rows, {"series": "what", "prompt": "end of the prompt"})
        panels.append(
            panel.mark_point(filled=True, size=14, opacity=0.7)
            .encode(
                x=alt.X("entropy:Q", title="entropy (nats)" if lowest else None, **entropy),
                y=alt.Y("value:Q", title="norm (log)" if leftmost else None, **norm),
                color=colour,
            )
            .properties(width=size, height=size, title=theme.small_title(names[place]))
        )
    whole = alt.concat(*panels, columns=columns, spacing={"row": 14, "column": 14})
    if len(checkpoints) > 1:
        whole = alt.vconcat(whole, _trajectory(checkpoints), spacing=28)
    subtitle = [
        "Every point over the entropy of the next token, N = (1/τ) ‖∂h/∂e‖ ‖E‖ ‖W‖. In the median "
        f"the sharp bound is {number(summary['looseness'], 2)} times the gap, the paper's "
        f"{number(summary['tighter'], 2)} times that."
    ]
    near = number(summary["covariance_looseness"], 2)
    title = (
        f"The sampling gap stays below its bounds; the one by covariances is {near} times the gap"
    )
    if summary["violations"]:
        title = f"{summary['violations']} of {summary['points']} points break a bound"
    return theme.titled(whole, title, subtitle)


def _trajectory(checkpoints: Sequence[Row]) -> ChartType:
    steps = common_steps([(row["checkpoint"], row["step"]) for row in checkpoints])
    names = labels([row["checkpoint"] for row in checkpoints])
    # Given a sort, a line would follow the rows and not the steps.
    x_axis = alt.X("x:Q", title="step") if steps else alt.X("x:O", title="checkpoint", sort=None)
    panels = []
    for name, title in (("gap", "median gap"), ("entropy", "median entropy (nats)")):
        rows = [
            {"x": x, "value": row[name], "label": label}
            for x, label, row in zip(steps or names, names, checkpoints, strict=True)
        ]
        base = theme.drawn(rows, {"label": "checkpoint"}).encode(
            x=x_axis, y=alt.Y("value:Q", title=None)
        )
        line = {"strokeWidth": 1.5, "color": theme.INK}
        panel = theme.curve(base, 30, "value", line, color=theme.INK)
        size = {"width": theme.WIDTH // 2 - 70, "height": 150}
        panels.append(panel.properties(**size, title=theme.small_title(title)))
    return alt.hconcat(*panels, spacing=30)


def _entropies(points: Sequence[Row]) -> dict[str, Any]:
    """Scale and axis, with marks at 1, 2, 5 times a power of ten around what is drawn."""
    values = [p["entropy"] for p in points if p["entropy"] > 0 and p["gap"] > 0] or [1.0]
    low, high = (math.floor(math.log10(end)) for end in (min(values), max(values)))
    marks = [m * 10.0**e for e in range(low, high + 2) for m in (1, 2, 5)]
    first = max(i for i, mark in enumerate(marks) if mark <= min(values) * (1 + 1e-9))
    last = min(i for i, mark in enumerate(marks) if mark >= max(values))
    chosen = marks[first : max(last, first + 1) + 1]
    # Both ends stay, and in between no more than fit.
    chosen = chosen if len(chosen) <= 5 else [chosen[0], *chosen[3:-1:3], chosen[-1]]
    return _log_axis([chosen[0], chosen[-1]], chosen, "~g")


def _norms(points: Sequence[Row]) -> dict[str, Any]:
    """Scale and axis between whole powers of ten around what is drawn, the same in every panel."""
    values = [p[name] for p in points for name in SERIES if p["entropy"] > 0 and p[name] > 0]
    values = values or [0.1]
    low, high = math.floor(math.log10(min(values))), math.floor(math.log10(max(values))) + 1
    powers = [10.0**e for e in range(low, high + 1, max(1, (high - low + 3) // 4))]
    return _log_axis([10.0**low, 10.0**high], powers, ".0e")


def _log_axis(domain: list[float], marks: list[float], form: str) -> dict[str, Any]:
    scale = alt.Scale(type="log", domain=domain)
    return {"scale": scale, "axis": alt.Axis(values=marks, format=form)}
