"""Gains by number of updates, and what the scores are made of."""

from tests.report.documents import document, result, rows_of

from valuegrad.report.component_figures import COMPONENTS, budgets, components
from valuegrad.study.result import study_result


def test_each_gain_is_drawn_at_its_number_of_updates():
    spec = budgets(result()).to_dict()
    rows = [row for row in rows_of(spec) if row["name"] == "20"]
    assert [(row["updates"], row["gain"]) for row in rows] == [(10, 0.21), (20, 0.25)]
    assert spec["title"]["text"] == "The gain grows with the number of updates"


def test_a_gain_that_falls_is_not_called_growing():
    found = document()
    for row in found["checkpoints"]:
        row["gain_by_updates"] = {"10": 0.3, "20": 0.2}
    title = budgets(study_result(found)).to_dict()["title"]["text"]
    assert title == "The gain by number of updates"


def test_every_component_has_a_panel():
    spec = components(result(trained=False)).to_dict()
    assert [panel["title"]["text"] for panel in spec["concat"]] == list(COMPONENTS.values())
