"""Which prompts RL can learn from: shares by checkpoint, and each prompt of the chosen one."""

import altair as alt
from altair.typing import ChartType

from valuegrad.impact.readiness import OUT_OF_REACH, READY, SOLVED
from valuegrad.report.findings import chosen
from valuegrad.report.numbers import fixed, number, share
from valuegrad.report.theme import CHOSEN, QUIET, dots, drawn, series_colour, small_title, titled
from valuegrad.report.trajectory import checkpoint_axis, checkpoint_rows
from valuegrad.study.result import StudyResult

COLOURS = {READY: CHOSEN, SOLVED: "#009e73", OUT_OF_REACH: "#c3c8ce"}
SHOWN = 60  # characters of a prompt's end in a tooltip


def readiness(result: StudyResult) -> ChartType:
    """Shares of ready, solved and unreachable prompts, beside signal × headroom of each prompt."""
    colour = series_colour("verdict", COLOURS)
    panels = _shares(result, colour), _prompts(result, colour)
    best = chosen(result)
    counts = best.verdicts
    part = share(counts[READY] / sum(counts.values())) if counts[READY] else "None"
    title = f"{part} of the prompts are ready for RL at {best.label}, the checkpoint chosen"
    subtitle = (
        f"A group there earns different rewards more often than not on {counts[READY]} prompts; "
        f"{counts[SOLVED]} are solved, {counts[OUT_OF_REACH]} out of reach."
    )
    return titled(alt.hconcat(*panels, spacing=36), title, subtitle)


def _shares(result: StudyResult, colour: alt.Color) -> ChartType:
    rows = []
    for row, found in zip(checkpoint_rows(result), result.checkpoints, strict=True):
        total = sum(found.verdicts.values())
        for place, verdict in enumerate(COLOURS):
            count = found.verdicts[verdict]
            part = {"place": place, "share": count / total, "text": f"{count} of {total}"}
            rows.append({**row, "verdict": verdict, **part})
    width = 420
    tooltip = {"checkpoint": "checkpoint", "verdict": "prompts are", "text": "how many"}
    return (
        drawn(rows, tooltip)
        .mark_bar()
        .encode(
            x=checkpoint_axis(result, width),
            y=alt.Y("share:Q", title="share of prompts", axis={"format": ".0%", "tickCount": 5}),
            color=colour,
            order=alt.Order("place:Q"),
        )
        .properties(width=width, height=260)
    )


def _prompts(result: StudyResult, colour: alt.Color) -> ChartType:
    rows = [
        {
            **vars(p),
            "prompt": "…" * (len(p.prompt) > SHOWN) + p.prompt[-SHOWN:].replace("\n", "⏎"),
            "reward text": fixed(p.reward, 3),
            "readiness text": number(p.readiness),
        }
        for p in result.prompts
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
    points = dots(base, 35, "reward", "readiness", opacity=0.7)
    title = small_title(f"each prompt of {chosen(result).label}", 12)
    return alt.layer(zero, points, width=400, height=260, title=title)
