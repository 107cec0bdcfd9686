"""Where the credit of one completion goes: heat maps of costates (Def. 2), tokens by sites."""

import json
import math
from itertools import pairwise
from typing import Any

import altair as alt
from altair.typing import ChartType

from valuegrad.report.numbers import number, share
from valuegrad.report.theme import CHOSEN, INK, WIDTH, drawn, small_title, titled
from valuegrad.report.trace_text import finding, shown, site_label
from valuegrad.theory.trace import Trace

PANELS = {
    "total": "total",
    "immediate": "immediate: through the log-probability that the position itself scores",
    "transported": "transported: through later log-probabilities, carried by attention",
}
TOOLTIP = {
    "token": "position",
    **{name: name for name in ("scores", "site", *PANELS)},
    "of_site": "share of the site's credit",
    "transport": "transported / total",
}
SUBTITLE = [
    "Colour: the size of a costate over the sum of all at its site (a row); white: none. "
    "Blue: the completion.",
    "A position has read its token and scores the next; the last scores none. Right: the sum "
    "of a row, and its two parts.",
]
SIDES = 130  # pixels that the names of the sites and the numbers beside their rows take
WIDEST, HIGHEST, LOWEST = 44, 20, 7  # pixels of a cell
TALLEST = 240  # pixels of a panel, unless its cells are the lowest
ROUNDING = 1e-6
LINE, CHARACTER = 11, 7  # pixels that a label and a character of it take


def trace_chart(trace: Trace) -> ChartType:
    """Total, immediate and transported costates on one colour scale, sites from the input up.

    Colours are shares of a site's sum, since sizes differ by orders of magnitude between sites, and
    follow the square root, or the many small shares of a long prompt would all look like none.
    """
    rows = _rows(trace)
    largest = max((row[f"{name}_share"] for row in rows for name in PANELS), default=1.0)
    panels = [_panel(trace, rows, name, largest) for name in PANELS]
    return titled(alt.vconcat(*panels, spacing=12), finding(trace), SUBTITLE)


def label_positions(trace: Trace, cell: float) -> list[int]:
    """Which tokens are named under columns of `cell` pixels: as many as fit, most credit first."""
    gap = math.ceil(LINE / cell)
    credit = trace.credit_share.nan_to_num().sum(0)
    named: list[int] = []
    for i in credit.argsort(descending=True, stable=True).tolist():
        if all(abs(i - other) >= gap for other in named):
            named.append(i)
    return sorted(named)


def _rows(trace: Trace) -> list[dict[str, Any]]:
    """A row a cell; those without any credit are left out, and so stay white."""
    texts = [shown(token.text) for token in trace.tokens]
    sums = trace.total.sum(1).tolist()
    parts = {name: getattr(trace, name).tolist() for name in PANELS}
    rows = []
    for s, site in enumerate(trace.sites):
        for token, scored in pairwise(trace.tokens):
            i, where = token.position, "completion" if token.in_completion else "prompt"
            sizes = {name: parts[name][s][i] for name in PANELS}
            if not sizes["total"] > 0:
                continue
            rows.append(
                {
                    "position": i,
                    "site": site_label(site),
                    "token": f"{texts[i]} ({i}, {where})",
                    "scores": f"{texts[i + 1]} at {number(scored.logp)} nats",
                    **{name: number(size) for name, size in sizes.items()},
                    "of_site": f"{_part(sizes['total'], sums[s]):.2%}",
                    "transport": f"{_part(sizes['transported'], sizes['total']):.0%}",
                    **{f"{name}_share": _part(size, sums[s]) for name, size in sizes.items()},
                }
            )
    return rows


def _part(size: float, whole: float) -> float:
    """Divide, with nothing left of what is rounding alone."""
    return size / whole if size > ROUNDING * whole else 0.0


def _panel(trace: Trace, rows: list[dict[str, Any]], name: str, largest: float) -> ChartType:
    count, last = len(trace.tokens), name == list(PANELS)[-1]
    cell = min(float(WIDEST), (WIDTH - SIDES) / count)
    height = max(LOWEST, min(HIGHEST, TALLEST / len(trace.sites)))
    sites = [site_label(site) for site in reversed(trace.sites)]
    # As many sites are named as fit, both ends among them.
    named = sites[:: -math.ceil(LINE / height)]
    named = named if named[-1] == sites[0] else [*named[:-1], sites[0]]
    start = next(token.position for token in trace.tokens if token.in_completion)
    x = alt.X(
        "position:O",
        title="token",
        scale=alt.Scale(domain=list(range(count)), paddingInner=0.04 if cell > 8 else 0),
        axis=_token_axis(trace, cell, start) if last else None,
    )
    y = alt.Y(
        "site:O",
        title=None,
        scale=alt.Scale(domain=sites, paddingInner=0.04),
        axis=alt.Axis(values=named, ticks=False, domain=False),
    )
    cells = (
        drawn(rows, TOOLTIP)
        .transform_filter(f"datum.{name}_share > 0")
        # Nobody listens to a thousand cells, and they would make the SVG ten times as large.
        .mark_rect(aria=False)
        .encode(x=x, y=y, color=_colour(name, largest))
    )
    line = (
        drawn([{"position": start}])
        .mark_rule(color=CHOSEN, strokeWidth=1.5, xOffset=-0.5)
        .encode(x=alt.X("position:O", bandPosition=0))
    )
    sums = [
        {"site": site_label(site), "text": _sum(trace, name, s)}
        for s, site in enumerate(trace.sites)
        if site_label(site) in named
    ]
    beside = (
        drawn(sums)
        .mark_text(align="left", baseline="middle", color=INK, fontSize=11)
        .encode(x=alt.value(cell * count + 8), y="site:O", text="text:N")
    )
    size = {"width": cell * count, "height": height * len(sites)}
    return alt.layer(cells, line, beside, **size, title=small_title(PANELS[name]))


def _token_axis(trace: Trace, cell: float, start: int) -> alt.Axis:
    texts = [shown(token.text) for token in trace.tokens]
    flat = max(map(len, texts)) * CHARACTER + 4 <= cell
    colour = alt.condition(f"datum.value >= {start}", alt.value(CHOSEN), alt.value(INK))
    return alt.Axis(
        values=label_positions(trace, cell),
        labelExpr=f"{json.dumps(texts)}[datum.value]",
        labelAngle=0 if flat else -90,
        labelFont="'DejaVu Sans Mono', Menlo, Consolas, monospace",
        labelOverlap=False,
        labelColor=colour,
        ticks=False,
        domain=False,
    )


def _colour(name: str, largest: float) -> alt.Color:
    steps = [m * 10.0**e for e in range(-6, 1) for m in (1, 2, 5)]
    return alt.Color(
        f"{name}_share:Q",
        scale=alt.Scale(scheme="magma", reverse=True, type="sqrt", domain=[0, largest]),
        # Symbols, not a gradient: Vega numbers the gradients of a process, so files would differ.
        legend=alt.Legend(
            title="share of the site's credit",
            type="symbol",
            symbolType="square",
            symbolStrokeWidth=0,
            orient="top",
            titleOrient="left",
            direction="horizontal",
            values=[step for step in steps if step <= largest * (1 + 1e-9)][-5:],
            labelExpr="format(100 * datum.value, '~g') + '%'",
            offset=8,
        ),
    )


def _sum(trace: Trace, name: str, s: int) -> str:
    """What stands to the right of a row."""
    if name == "total":
        return number(float(trace.total[s].sum()))
    carried = _part(float(trace.carried_share[s]), 1.0)
    if name == "immediate":
        return share(1 - carried)
    return share(carried) if carried else "0%"
