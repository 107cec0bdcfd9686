"""The checkpoints of a study as an axis, as colours and as rows: shared by the figures."""

import json
import math
from collections.abc import Iterable
from typing import Any

import altair as alt
import numpy as np

from valuegrad.checkpoints.names import common_steps
from valuegrad.study.result import StudyResult
from valuegrad.study.vectors import FloatArray

LEGEND = 6  # checkpoints named in a colour legend
LEAST = 19  # pixels between two slanted labels
CHARACTER = 6.4  # pixels a character of an axis label takes
SMALL = 1e-3  # axis labels of quantities below this are powers of ten
WIDE = 300  # a quantity that spans a larger factor than this is drawn in powers of ten


def checkpoint_rows(result: StudyResult, **columns: Iterable[Any]) -> list[dict[str, Any]]:
    """One row a checkpoint, in the result's order: its place on the axis, name, label, columns."""
    names, along, _ = _names(result)
    labels = [found.label for found in result.checkpoints]
    columns = {"order": map(along.index, names), "name": names, "checkpoint": labels, **columns}
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def checkpoint_axis(result: StudyResult, width: int, *, labels: bool = True) -> alt.X:
    """The x axis, `width` pixels wide, with one place a checkpoint, by step where that is known."""
    names, along, title = _names(result)
    axis = {"grid": False, "labelAngle": 0, "labelSeparation": 6, "labelOverlap": "greedy"}
    wide = max(map(len, names)) * CHARACTER + 6 > width / len(names)
    if not labels:
        axis |= {"labels": False, "ticks": False}
    elif title == "checkpoint" and wide:
        axis |= {"labelAngle": -40, "labelAlign": "right"}
        axis["labelOverlap"] = "greedy" if len(names) * LEAST > width else False
    return alt.X("name:O", sort=along, title=title if labels else None, axis=axis)


def checkpoint_colour(result: StudyResult) -> alt.Color:
    """The colour that runs from the first checkpoint to the last."""
    _, along, title = _names(result)
    last = max(len(along) - 1, 1)
    shown = sorted({round(i * last / (LEGEND - 1)) for i in range(LEGEND)} & set(range(len(along))))
    return alt.Color(
        "order:Q",
        scale={"scheme": alt.SchemeParams(name="viridis", extent=[0.0, 0.88]), "domain": [0, last]},
        # Symbols, not a gradient: Vega numbers the gradients of a process, so files would differ.
        legend={
            "title": title,
            "type": "symbol",
            "values": shown,
            "labelExpr": f"{json.dumps(along)}[datum.value]",
        },
    )


def wide_scale(values: FloatArray, ticks: int = 5) -> dict[str, Any]:
    """Scale and axis for one quantity, about `ticks` ticks: powers of ten where it spans many."""
    known = values[~np.isnan(values)].tolist()
    sizes = [abs(v) for v in known if v]
    axis = {"tickCount": ticks} | ({"format": "~e"} if sizes and max(sizes) < SMALL else {})
    if len(set(known)) < 2:
        return {"scale": {}, "axis": axis}
    if max(sizes) / min(sizes) <= WIDE:
        return {"scale": {"zero": False, "nice": False, "padding": 10}, "axis": axis}
    low, high = math.ceil(math.log10(min(sizes))), math.floor(math.log10(max(sizes)))
    powers = [10.0**power for power in range(low, high + 1, max((high - low) // ticks, 1))]
    marks = [-p for p in powers if min(known) < 0] + [p for p in powers if max(known) > 0]
    ends = {"domain": [min(known), max(known)], "padding": 10}
    scale = {"type": "symlog", "constant": min(sizes) / 10, **ends}
    return {"scale": scale, "axis": {"values": sorted(marks), "format": ".0e"}}


def _names(result: StudyResult) -> tuple[list[str], list[str], str]:
    """The checkpoints' names, the same along the axis, its title; steps where these compare."""
    labels = [checkpoint.label for checkpoint in result.checkpoints]
    steps = common_steps([(found.checkpoint, found.step) for found in result.checkpoints])
    if steps is None:
        return labels, labels, "checkpoint"
    return [f"{s:,}" for s in steps], [f"{s:,}" for s in sorted(steps)], "pretraining step"
