"""The report of a study: its figures as files, and one page that needs nothing else.

The page is the same bytes for the same result, but for the wall-clock times; these stand in
elements with the attribute ``data-timing`` and nowhere else.
"""

import math
from importlib.resources import files
from pathlib import Path

import vl_convert
from altair.typing import ChartType
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from valuegrad.files import write_atomically
from valuegrad.report.component_figures import budgets, components
from valuegrad.report.contents import FILTERS, contents
from valuegrad.report.gain_figures import gain
from valuegrad.report.predictor_figure import predictors
from valuegrad.report.ranking_figure import ranking
from valuegrad.report.readiness_figure import readiness
from valuegrad.report.score_figures import scatter, z_scores
from valuegrad.report.theme import specification
from valuegrad.study.result import StudyResult

SHARPNESS = 2  # pixels of a PNG a pixel of the drawing

# In reading order. Wall-clock times enter none of them.
TRAINED = (predictors, ranking, gain, scatter, readiness, budgets, z_scores)
UNTRAINED = (ranking, readiness, components)


def write_report(result: StudyResult, folder: Path) -> list[str]:
    """Write ``report.html`` and the figures; return the paths of these, inside the folder."""
    specs = specifications(result)
    paths = [
        path for name, spec in specs.items() for path in _draw(spec, folder, f"figures/{name}")
    ]
    write_atomically(folder / "report.html", page(result, specs))
    return paths


def draw(chart: ChartType, folder: Path, name: str) -> list[str]:
    """Write one figure as SVG, PNG and an interactive page of its own, and give their paths."""
    spec = specification(chart)
    paths = _draw(spec, folder, name)
    write_atomically(folder / f"{name}.html", vl_convert.vegalite_to_html(spec, bundle=True))
    return [str(folder / path) for path in [*paths, f"{name}.html"]]


def _draw(spec: str, folder: Path, name: str) -> list[str]:
    svg = vl_convert.vegalite_to_svg(spec)
    write_atomically(folder / f"{name}.svg", svg)
    write_atomically(folder / f"{name}.png", vl_convert.svg_to_png(svg, scale=SHARPNESS))
    return [f"{name}.svg", f"{name}.png"]


def specifications(result: StudyResult) -> dict[str, str]:
    """Every figure that a study has the measurements for by name, in Vega-Lite's JSON."""
    figures = TRAINED if result.trained else UNTRAINED
    return {figure.__name__: specification(figure(result)) for figure in figures}


def page(result: StudyResult, specs: dict[str, str]) -> str:
    """The page of a study as HTML; names and messages are text in it, whatever they hold."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(FILTERS)
    environment.tests["known"] = lambda value: not math.isnan(value)
    template = files("valuegrad.report").joinpath("template.html").read_text("utf-8")
    # In JSON "<" can only be inside a string, where \u003c is the same: no tag ends the script.
    safe = {name: Markup(spec.replace("<", "\\u003c")) for name, spec in specs.items()}
    script = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # the stub asks for a snippet
    bundle = Markup(script.replace("</script", "<\\/script"))
    return environment.from_string(template).render(specs=safe, bundle=bundle, **contents(result))
