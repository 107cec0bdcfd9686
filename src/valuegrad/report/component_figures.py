"""What the scores are made of, beside the gain that they predict (Fig. 3)."""

import altair as alt
import numpy as np
from altair.typing import ChartType

from valuegrad.report.findings import measurements
from valuegrad.report.numbers import fixed, number
from valuegrad.report.theme import INK, QUIET, curve, drawn, small_title, titled
from valuegrad.report.trajectory import checkpoint_axis, checkpoint_rows, wide_scale
from valuegrad.study.result import StudyResult

COMPONENTS = {
    "sigma": "Σ: squared value gradient",
    "lambda_sample": "Λ: error of a sampled costate",
    "alignment": "alignment (Eq. 24)",
    "headroom": "headroom (reward)",
    "probe_step": "probe_step (reward)",
    "reward_before": "reward before RL",
}
"""What is drawn, with titles short enough for a small panel."""


def budgets(result: StudyResult) -> ChartType:
    """Each checkpoint's gain by number of updates, beside the components."""
    rows = [
        {**row, "updates": updates, "gain": gain, "text": fixed(gain, 3, sign=True)}
        for row, found in zip(checkpoint_rows(result), result.checkpoints, strict=True)
        for updates, gain in found.gain_by_updates.items()
    ]
    width = 400
    tooltip = {"checkpoint": "checkpoint", "updates": "updates", "text": "gain (reward)"}
    base = drawn(rows, tooltip).encode(
        x=checkpoint_axis(result, width),
        y=alt.Y("gain:Q", title="gain (reward), mean over seeds", axis={"tickCount": 6}),
        color=alt.Color(
            "updates:O",
            scale={"scheme": alt.SchemeParams(name="blues", extent=[0.35, 1.0])},
            legend={"title": "updates", "orient": "top", "titleOrient": "left", "offset": 4},
        ),
    )
    left = curve(base, 40, "gain", {"strokeWidth": 2}).properties(width=width, height=334)
    whole = alt.hconcat(left, _panels(result, 2, 205, 90), spacing=36)
    by_checkpoint = [list(found.gain_by_updates.values()) for found in result.checkpoints]
    whole_rows = [gains for gains in by_checkpoint if not np.isnan(gains).any()]
    means = [sum(gains) for gains in zip(*whole_rows, strict=True)]
    grows = len(means) > 1 and means == sorted(means)
    title = f"The gain {'grows with the' if grows else 'by'} number of updates"
    return titled(whole, title, "Right: what the scores are made of.")


def components(result: StudyResult) -> ChartType:
    """What the scores are made of, one small panel a component."""
    title = "What the scores are made of, along the trajectory"
    return titled(_panels(result, 3, 262, 130), title)


def _panels(result: StudyResult, columns: int, width: int, height: int) -> ChartType:
    panels = []
    for i, (name, title) in enumerate(COMPONENTS.items()):
        values = measurements(result, name)
        rows = checkpoint_rows(result, value=values, text=map(number, values))
        lowest = i >= len(COMPONENTS) - columns
        base = drawn(rows, {"checkpoint": "checkpoint", "text": name}).encode(
            x=checkpoint_axis(result, width, labels=lowest),
            y=alt.Y("value:Q", title=None, **wide_scale(values, 3)),
        )
        panel = curve(base, 25, "value", {"strokeWidth": 1.5, "color": QUIET}, color=INK)
        panels.append(panel.properties(width=width, height=height, title=small_title(title)))
    return alt.concat(*panels, columns=columns, spacing={"row": 14, "column": 20})
