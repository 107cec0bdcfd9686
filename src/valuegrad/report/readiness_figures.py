"""Which prompts RL can learn from: shares by checkpoint, and each prompt of the chosen one."""

from __future__ import annotations

from typing import Any

import altair as alt
from altair.typing import ChartType

from valuegrad.impact.readiness import OUT_OF_REACH, READY, SOLVED
from valuegrad.report.findings import Document, ranked
from valuegrad.report.theme import CHOSEN, QUIET, defined, drawn, fixed, number, share, small_title
from valuegrad.report.trajectory import checkpoint_axis, checkpoint_rows

COLOURS = {READY: CHOSEN, SOLVED: "#009e73", OUT_OF_REACH: "#c3c8ce"}
SHOWN = 60  # characters of a prompt's end in a tooltip


def readiness(document: Document) -> ChartType:
    """Draw the shares of ready, solved and unreachable prompts, and signal × headroom of each.

    Args:
        document: of a study whose records hold per-prompt rows.

    Returns:
        Stacked bars, one a checkpoint, beside the chosen checkpoint's prompts.
    """
    rows = []
    for row, checkpoint in zip(checkpoint_rows(document), document["checkpoints"], strict=True):
        counts = checkpoint["verdicts"]
        total = sum(counts.values())
        rows += [
            {
                **row,
                "verdict": verdict,
                "place": place,
                "share": counts[verdict] / total,
                "text": f"{counts[verdict]} of {total}",
            }
            for place, verdict in enumerate(COLOURS)
        ]
    width = 420
    colour = alt.Color(
        "verdict:N",
        scale={"domain": list(COLOURS), "range": list(COLOURS.values())},
        legend={"title": None, "orient": "top", "offset": 4},
    )
    bars = (
        drawn(rows, {"checkpoint": "checkpoint", "verdict": "prompts are", "text": "how many"})
        .mark_bar()
        .encode(
            x=checkpoint_axis(document, width),
            y=alt.Y("share:Q", title="share of prompts", axis={"format": ".0%", "tickCount": 5}),
            color=colour,
            order=alt.Order("place:Q"),
        )
        .properties(width=width, height=260)
    )
    return alt.hconcat(bars, _prompts(document, colour), spacing=36).properties(
        title=alt.Title(_title(document), subtitle=_subtitle(document))
    )


def _prompts(document: Document, colour: alt.Color) -> ChartType:
    rows = [
        {
            "prompt": "…" * (len(p["prompt"]) > SHOWN) + p["prompt"][-SHOWN:].replace("\n", "⏎"),
            "verdict": p["verdict"],
            "reward": p["reward"],
            "readiness": p["readiness"],
            "reward text": fixed(p["reward"], 3),
            "readiness text": number(p["readiness"]),
        }
        for p in document["prompts"]
    ]
    tooltip = {
        "prompt": "prompt",
        "verdict": "is",
        "reward text": "reward before",
        "readiness text": "signal × headroom",
    }
    base = drawn(rows, tooltip).encode(
        x=alt.X("reward:Q", title="reward before RL", scale={"nice": True}),
        y=alt.Y("readiness:Q", title="signal × headroom", axis={"tickCount": 5, "format": "~g"}),
        color=colour,
    )
    zero = drawn([{"readiness": 0}]).mark_rule(color=QUIET).encode(y="readiness:Q")
    points = defined(base, "reward", "readiness").mark_point(filled=True, size=35, opacity=0.7)
    label = document["checkpoints"][ranked(document)[0]]["label"]
    return alt.layer(zero, points).properties(
        width=400, height=260, title=small_title(f"each prompt of {label}", 12)
    )


def _title(document: Document) -> str:
    counts = _chosen(document)
    part = share(counts[READY] / sum(counts.values())) if counts[READY] else "None"
    label = document["checkpoints"][ranked(document)[0]]["label"]
    return f"{part} of the prompts are ready for RL at {label}, the checkpoint chosen"


def _subtitle(document: Document) -> str:
    counts = _chosen(document)
    return (
        f"A group there earns different rewards more often than not on {counts[READY]} prompts; "
        f"{counts[SOLVED]} are solved, {counts[OUT_OF_REACH]} out of reach."
    )


def _chosen(document: Document) -> dict[str, Any]:
    found: dict[str, Any] = document["checkpoints"][ranked(document)[0]]["verdicts"]
    return found
