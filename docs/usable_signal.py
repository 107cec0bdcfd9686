"""Draw docs/usable_signal.svg: S/Σ of Eqs. 26 and 27 over p and the group size (correction E).

Run it in the repository: ``.venv/bin/python docs/usable_signal.py``
"""

from pathlib import Path

import altair as alt
import torch
import vl_convert

from valuegrad import group_advantages, limit_advantages
from valuegrad.report import theme

SIZES = (2, 4, 8, 16, 64)
LIMIT = "limit"


def main() -> None:
    """Write the figure beside this file."""
    zero_one = torch.tensor([0.0, 1.0])
    p = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    both = torch.stack((1 - p, p), 1)
    slopes = {str(size): group_advantages(zero_one, both, "grpo", size).slope for size in SIZES}
    slopes[LIMIT] = limit_advantages(zero_one, both, "grpo").slope
    rows = [
        {"p": x, "share": 1 - abs(psi - 1), "G": name}
        for name, found in slopes.items()
        for x, psi in zip(p.tolist(), found.tolist(), strict=True)
    ]
    colours = ["#c6dbef", "#6baed6", theme.CHOSEN, "#08306b", theme.MEASURED, theme.PAPER]
    lines = theme.drawn(rows).mark_line(clip=True, strokeWidth=2)
    legend = {**theme.LINES, "title": "actions a group, G"}
    chart = lines.encode(
        x=alt.X("p:Q", title="probability of success p"),
        y=alt.Y("share:Q", title="S / Σ = (Σ − Λ) / Σ", scale={"domain": [-2, 1]}),
        color=alt.Color("G:N", scale={"domain": list(slopes), "range": colours}, legend=legend),
        order="p:Q",
    ).properties(width=560, height=300)
    zero = theme.drawn([{"zero": 0}]).mark_rule(color=theme.QUIET).encode(y="zero:Q")
    text = "Whether the paper's usable signal is positive depends on the group size"
    subtitle = "Indicator reward, grpo, Λ with E[λ̂|h] inside: S = Σ (2 − ψ) from G = 4 on"
    whole = theme.titled(alt.layer(zero, chart), text, subtitle)
    svg = vl_convert.vegalite_to_svg(theme.specification(whole))
    Path(__file__).with_suffix(".svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
