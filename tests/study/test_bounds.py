"""Bounds of several checkpoints: what their records are known by, and what comes back."""

import json
import math
import shutil

from valuegrad.study.bounds import measure_bounds
from valuegrad.study.measuring import Resources
from valuegrad.tasks.settings import TaskSettings
from valuegrad.theory.settings import BoundSettings


def test_a_record_holds_no_names_and_its_undefined_numbers_come_back_as_nan(
    trajectory, config, tmp_path
):
    task = TaskSettings(name=str(config.with_name("task.jsonl")))
    settings = BoundSettings(examples=2, positions=1)
    first = measure_bounds([f"{trajectory}/step10"], task, settings, tmp_path / "b", Resources())
    assert (first.reused, first.failures, len(first.points)) == (0, {}, 2)
    (path,) = (tmp_path / "b" / "records").iterdir()
    record = json.loads(path.read_text())
    assert not {"checkpoint", "step"} & set(record["result"]["points"][0])
    record["result"]["points"][0]["smallest_constant"] = None
    path.write_text(json.dumps(record))
    moved = shutil.copytree(trajectory / "step10", tmp_path / "step99")
    again = measure_bounds([str(moved)], task, settings, tmp_path / "b", Resources())
    assert again.reused == 1
    assert math.isnan(again.points[0].pop("smallest_constant"))
    del first.points[0]["smallest_constant"]
    for old, new in zip(first.points, again.points, strict=True):
        assert new == old | {"checkpoint": str(moved), "step": 99}
