"""The checkpoints' axis: by step where steps are known, whatever order they were named in."""

import numpy as np
import pytest
from tests.report.documents import document

from valuegrad.report.trajectory import checkpoint_axis, checkpoint_rows, wide_scale
from valuegrad.study.result import study_result


def study(*steps):
    found = document(len(steps), trained=False)
    for i, (row, step) in enumerate(zip(found["checkpoints"], steps, strict=True)):
        row |= {"step": step, "label": f"c{i}"}
    return study_result(found)


def test_the_axis_goes_by_step():
    named = study(300, 600, 1450, 450)
    assert checkpoint_axis(named, 400).to_dict()["sort"] == ["300", "450", "600", "1,450"]
    assert [row["order"] for row in checkpoint_rows(named)] == [0, 2, 3, 1]
    assert [row["name"] for row in checkpoint_rows(named)] == ["300", "600", "1,450", "450"]


def test_without_steps_the_order_stays():
    for named in (study(600, None, 300), study(300, 100, 100)):
        assert checkpoint_axis(named, 400).to_dict()["sort"] == ["c0", "c1", "c2"]
        assert [row["order"] for row in checkpoint_rows(named)] == [0, 1, 2]


@pytest.mark.parametrize("names", [("a/step1", "b/step2"), ("stage1-step9", "stage2-step1")])
def test_steps_that_do_not_count_on_from_each_other_are_no_axis(names):
    found = document(2, trained=False)
    for row, name in zip(found["checkpoints"], names, strict=True):
        row |= {"checkpoint": name, "label": name}
    named = study_result({**found, "ranking": names, "best": names[0]})
    assert checkpoint_axis(named, 400).to_dict()["sort"] == list(names)
    assert checkpoint_axis(named, 400).to_dict()["title"] == "checkpoint"


def test_labels_that_are_wider_than_their_places_are_slanted():
    named = study(None, None, None)
    assert checkpoint_axis(named, 400).to_dict()["axis"]["labelAngle"] == 0
    assert checkpoint_axis(named, 40).to_dict()["axis"]["labelAngle"] == -40


@pytest.mark.parametrize(
    ("values", "kind"), [([0.2, 0.5, np.nan], None), ([-1e-6, 2e-5, 0.3], "symlog")]
)
def test_a_quantity_over_a_large_factor_is_drawn_in_powers_of_ten(values, kind):
    found = wide_scale(np.array(values))
    assert found["scale"].get("type") == kind
    marks = found["axis"].get("values", [])
    assert marks == sorted(marks)
    assert all(np.isclose(np.log10(abs(m)) % 1, [0, 1], atol=1e-9).any() for m in marks)


def test_one_value_has_no_scale_of_its_own():
    assert wide_scale(np.array([0.5, 0.5, np.nan]))["scale"] == {}
