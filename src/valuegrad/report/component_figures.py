"""Figures of what the scores are made of, beside the gain they predict: the paper's Figure 3."""

from __future__ import annotations

import altair as alt
from altair.typing import ChartType

from valuegrad.report.findings import Document, column
from valuegrad.report.theme import INK, QUIET, defined, drawn, fixed, number, small_title
from valuegrad.report.trajectory import checkpoint_axis, checkpoint_rows, wide_scale

COMPONENTS = {
    "sigma": "Σ: squared value gradient",
    "lambda_sample": "Λ: error of a sampled costate",
    "alignment": "alignment (Eq. 24)",
    "headroom": "headroom (reward)",
    "probe_step": "probe_step (reward)",
    "reward_before": "reward before RL",
}
"""What is drawn, with titles short enough for a small panel."""


def budgets(document: Document) -> ChartType:
    """Draw each checkpoint's gain by number of updates, beside the components (Fig. 3).

    Args:
        document: of a study that ran RL.

    Returns:
        A panel with one line a number of updates, and a small panel a component.
    """
    rows = [
        {**row, "updates": int(updates), "gain": gain, "text": fixed(gain, 3, sign=True)}
        for row, checkpoint in zip(checkpoint_rows(document), document["checkpoints"], strict=True)
        for updates, gain in checkpoint["gain_by_updates"].items()
    ]
    width = 400
    tooltip = {"checkpoint": "checkpoint", "updates": "updates", "text": "gain (reward)"}
    base = drawn(rows, tooltip).encode(
        x=checkpoint_axis(document, width),
        y=alt.Y("gain:Q", title="gain (reward), mean over seeds", axis={"tickCount": 6}),
        color=alt.Color(
            "updates:O",
            scale={"scheme": alt.SchemeParams(name="blues", extent=[0.35, 1.0])},
            legend={"title": "updates", "orient": "top", "titleOrient": "left", "offset": 4},
        ),
    )
    points = defined(base, "gain").mark_point(filled=True, size=40, opacity=1)
    left = alt.layer(base.mark_line(strokeWidth=2), points).properties(width=width, height=334)
    return alt.hconcat(left, _panels(document, 2, 205, 90), spacing=36).properties(
        title=alt.Title(_budgets_title(document), subtitle="Right: what the scores are made of.")
    )


def components(document: Document) -> ChartType:
    """Draw what the scores are made of, one small panel a component.

    Args:
        document: of a study, with or without RL.

    Returns:
        The panels, each with its own y axis.
    """
    title = "What the scores are made of, along the trajectory"
    return _panels(document, 3, 262, 130).properties(title=alt.Title(title))


def _panels(document: Document, columns: int, width: int, height: int) -> ChartType:
    panels = []
    for i, (name, title) in enumerate(COMPONENTS.items()):
        values = column(document, name)
        rows = [
            {**row, "value": value, "text": number(value)}
            for row, value in zip(checkpoint_rows(document), values, strict=True)
        ]
        lowest = i >= len(COMPONENTS) - columns
        base = drawn(rows, {"checkpoint": "checkpoint", "text": name}).encode(
            x=checkpoint_axis(document, width, labels=lowest),
            y=alt.Y("value:Q", title=None, **wide_scale(values, 3)),
        )
        points = defined(base, "value").mark_point(filled=True, size=25, opacity=1, color=INK)
        panels.append(
            alt.layer(base.mark_line(strokeWidth=1.5, color=QUIET), points).properties(
                width=width,
                height=height,
                title=small_title(title),
            )
        )
    return alt.concat(*panels, columns=columns, spacing={"row": 14, "column": 20})


def _budgets_title(document: Document) -> str:
    by_checkpoint = [list(c["gain_by_updates"].values()) for c in document["checkpoints"]]
    whole = [gains for gains in by_checkpoint if None not in gains]
    means = [sum(gains) for gains in zip(*whole, strict=True)]
    if len(means) > 1 and means == sorted(means):
        return "The gain grows with the number of updates"
    return "The gain by number of updates"
