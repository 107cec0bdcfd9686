"""The report of a study: its figures as files, and one page that needs nothing else.

The page is the same bytes for the same document, but for the wall-clock times; these stand in
elements with the attribute ``data-timing`` and nowhere else.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import vl_convert
from altair.typing import ChartType
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from valuegrad.files import to_json, write_atomically
from valuegrad.report.contents import contents
from valuegrad.report.figures import figures
from valuegrad.report.findings import Document
from valuegrad.report.theme import themed

SHARPNESS = 2  # pixels of a PNG a pixel of the drawing


def write_report(document: Document, folder: Path) -> dict[str, Any]:
    """Write the page and the figures of a study.

    Args:
        document: of ``valuegrad study``, as `summarise` gives it or as read from ``study.json``.
        folder: the study folder; the figures go to ``figures`` in it.

    Returns:
        The paths relative to the folder: ``report``, the page, and ``figures``, a list.

    Raises:
        RunError: a file could not be written.
    """
    plain = json.loads(to_json(document))
    specs = specifications(plain)
    paths = []
    for name, spec in specs.items():
        paths += _draw(spec, folder, f"figures/{name}")
    write_atomically(folder / "report.html", page(plain, specs))
    return {"report": "report.html", "figures": paths}


def draw(chart: ChartType, folder: Path, name: str) -> list[str]:
    """Write one figure as SVG, PNG and an interactive page of its own.

    Args:
        chart: the figure.
        folder: where it goes.
        name: of the files, without their ends.

    Returns:
        The paths of what was written.

    Raises:
        RunError: a file could not be written.
    """
    spec = json.dumps(themed(chart).to_dict())
    paths = _draw(spec, folder, name)
    write_atomically(folder / f"{name}.html", vl_convert.vegalite_to_html(spec, bundle=True))
    return [str(folder / path) for path in [*paths, f"{name}.html"]]


def _draw(spec: str, folder: Path, name: str) -> list[str]:
    svg = vl_convert.vegalite_to_svg(spec)
    drawings: dict[str, str | bytes] = {
        "svg": svg,
        "png": vl_convert.svg_to_png(svg, scale=SHARPNESS),
    }
    for kind, drawing in drawings.items():
        write_atomically(folder / f"{name}.{kind}", drawing)
    return [f"{name}.{kind}" for kind in drawings]


def specifications(document: Document) -> dict[str, str]:
    """Write every figure of a study as a Vega-Lite specification.

    Args:
        document: ``study.json`` as read from disk.

    Returns:
        The specifications by name, as JSON.
    """
    return {name: json.dumps(chart.to_dict()) for name, chart in figures(document).items()}


def page(document: Document, specs: dict[str, str]) -> str:
    """Write the page of a study: text, tables and interactive figures in one file.

    Args:
        document: ``study.json`` as read from disk.
        specs: its figures, as `specifications` gives them.

    Returns:
        The HTML. Names and messages in the document are text in it, whatever they hold.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = files("valuegrad.report").joinpath("template.html").read_text("utf-8")
    # In JSON "<" can only be inside a string, where \u003c is the same: no tag ends the script.
    safe = {name: Markup(spec.replace("<", "\\u003c")) for name, spec in specs.items()}
    script = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # the stub asks for a snippet
    bundle = Markup(script.replace("</script", "<\\/script"))
    return environment.from_string(template).render(specs=safe, bundle=bundle, **contents(document))
