"""The checkpoints of a study as an axis, as colours and as rows: shared by the figures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from valuegrad.report.findings import Document, column

LEGEND = 6  # checkpoints named in a colour legend
LEAST = 19  # pixels between two slanted labels
CHARACTER = 6.4  # pixels a character of an axis label takes
SMALL = 1e-3  # axis labels of quantities below this are powers of ten
WIDE = 300  # a quantity that spans a larger factor than this is drawn in powers of ten


def checkpoint_rows(document: Document) -> list[dict[str, Any]]:
    """Make one row a checkpoint, in the document's order: its place on the axis, name and label."""
    names, _ = _axis_names(document)
    labels, places = column(document, "label"), _sorted_names(document)
    return [
        {"order": places.index(name), "name": name, "checkpoint": label}
        for name, label in zip(names, labels, strict=True)
    ]


def checkpoint_axis(document: Document, width: int, *, labels: bool = True) -> alt.X:
    """Make the x axis that has one place a checkpoint, by step where that is known.

    Args:
        document: of a study.
        width: of the axis, in pixels.
        labels: whether the axis is labelled.

    Returns:
        The encoding.
    """
    names, title = _axis_names(document)
    longest = max(len(name) for name in names)
    axis: dict[str, Any] = {"grid": False, "labelAngle": 0, "labelSeparation": 6}
    axis["labelOverlap"] = "greedy"
    if not labels:
        axis |= {"labels": False, "ticks": False}
    elif names == list(column(document, "label")) and longest * CHARACTER + 6 > width / len(names):
        axis |= {"labelAngle": -40, "labelAlign": "right", "labelLimit": 150}
        axis["labelOverlap"] = "greedy" if len(names) * LEAST > width else False
    return alt.X("name:O", sort=_sorted_names(document), title=title if labels else None, axis=axis)


def checkpoint_colour(document: Document) -> alt.Color:
    """Make the colour that runs from the first checkpoint to the last."""
    names, title = _sorted_names(document), _axis_names(document)[1]
    last = max(len(names) - 1, 1)
    shown = sorted({round(i * last / (LEGEND - 1)) for i in range(LEGEND)} & set(range(len(names))))
    return alt.Color(
        "order:Q",
        scale={"scheme": alt.SchemeParams(name="viridis", extent=[0.0, 0.88]), "domain": [0, last]},
        # Symbols, not a gradient: Vega numbers the gradients of a process, so files would differ.
        legend={
            "title": title,
            "type": "symbol",
            "values": shown,
            "labelExpr": f"{json.dumps(names)}[datum.value]",
        },
    )


def wide_scale(values: Sequence[float | None], ticks: int = 5) -> dict[str, Any]:
    """Choose scale and axis for one quantity: powers of ten where it spans a large factor.

    Args:
        values: what is drawn, None where undefined.
        ticks: about how many ticks.

    Returns:
        The `scale` and `axis` of an encoding.
    """
    known = [v for v in values if v is not None]
    sizes = [abs(v) for v in known if v]
    axis = {"tickCount": ticks} | ({"format": "~e"} if sizes and max(sizes) < SMALL else {})
    if len(set(known)) < 2:
        return {"scale": {}, "axis": axis}
    if max(sizes) / min(sizes) <= WIDE:
        return {"scale": {"zero": False, "nice": False, "padding": 10}, "axis": axis}
    low, high = math.ceil(math.log10(min(sizes))), math.floor(math.log10(max(sizes)))
    powers = [10.0**power for power in range(low, high + 1, max((high - low) // ticks, 1))]
    marks = [-p for p in powers if min(known) < 0] + [p for p in powers if max(known) > 0]
    stretched: dict[str, Any] = {
        "type": "symlog",
        "constant": min(sizes) / 10,
        "domain": [min(known), max(known)],
        "padding": 10,
    }
    return {"scale": stretched, "axis": {"values": sorted(marks), "format": ".0e"}}


def _axis_names(document: Document) -> tuple[list[str], str]:
    """Name the checkpoints by their steps where these are known and distinct, else by labels."""
    steps = column(document, "step")
    if None not in steps and len(set(steps)) == len(steps):
        return [f"{step:,}" for step in steps], "pretraining step"
    return list(column(document, "label")), "checkpoint"


def _sorted_names(document: Document) -> list[str]:
    """The axis names in order: by step where that is known, else the document's."""
    names, title = _axis_names(document)
    if title == "checkpoint":
        return names
    steps = column(document, "step")
    return [names[i] for i in sorted(range(len(names)), key=lambda i: steps[i])]
