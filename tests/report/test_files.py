"""What lies in a study's folder beside its records, and how a damaged summary is refused."""

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.report.documents import document, result

from valuegrad.checkpoints.checkpoint import Checkpoint
from valuegrad.errors import UserError
from valuegrad.files import to_json
from valuegrad.report.files import rebuild_report, write_prompts, write_study
from valuegrad.study.run import Measured, Outcome


def outcome(name, readiness):
    count = len(readiness)
    rows = {
        "prompt": [f"p{i}" for i in range(count)],
        "verdict": ["ready"] * count,
        "readiness": readiness,
        **{name: [0.5] * count for name in ("reward", "signal", "headroom", "sigma")},
    }
    checkpoint = Checkpoint(name, Path(name), name, None, None, None)
    return Outcome((Measured(checkpoint, {"rows": rows}, (), (0.0, 0.0)),), {}, 0)


def test_a_rebuilt_report_is_the_one_that_was_written(tmp_path):
    written = write_study(tmp_path, result(), outcome("a", [0.1]))
    files = {path: Path(path).read_bytes() for path in (written["report"], *written["figures"])}
    assert json.loads((tmp_path / "study.json").read_text()) == document()
    for path in files:
        Path(path).unlink()
    assert rebuild_report(tmp_path) == written
    assert {path: Path(path).read_bytes() for path in files} == files


def test_two_checkpoints_that_an_earlier_version_gave_one_label_stay_two(tmp_path):
    found = document(2)
    for row, run in zip(found["checkpoints"], "ab", strict=True):
        row |= {"checkpoint": f"{run}/x/step1", "label": "x/step1", "step": 1}
    found |= {"ranking": ["b/x/step1", "a/x/step1"], "best": "b/x/step1"}
    (tmp_path / "study.json").write_text(to_json(found))
    page = Path(rebuild_report(tmp_path)["report"]).read_text("utf-8")
    assert "a/x/step1" in page
    assert "b/x/step1 has the highest probe_step" in page


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "a damaged file, or one of another version"),
        (to_json({**document(), "laws": None}), r"another version \(laws: "),
        (to_json(document()).replace('"sigma"', '"sigma_2"'), r"another version \('sigma'\)"),
    ],
)
def test_a_summary_that_cannot_be_read_is_refused(tmp_path, text, message):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(UserError, match=message):
        rebuild_report(tmp_path)


def test_rows_of_two_versions_stand_in_one_file(tmp_path):
    old, new = (outcome(name, [0.1, 0.2]).measured[0] for name in "ab")
    new.score["rows"]["stratum"] = ["0:A", "0:B"]
    write_prompts(tmp_path, Outcome((old, new), {}, 0))
    found = pq.read_table(tmp_path / "prompts.parquet").to_pydict()
    assert found["stratum"] == [None, None, "0:A", "0:B"]


def test_a_folder_without_a_summary_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"STUDY_DIR: got .* which has no study\.json"):
        rebuild_report(tmp_path)


def test_prompts_are_ordered_by_readiness_and_other_checkpoints_stay_where_asked(tmp_path):
    write_prompts(tmp_path, outcome("a", [0.1, 0.3, math.nan]))
    ready = pq.read_table(tmp_path / "readiness.parquet").to_pydict()
    assert ready["prompt"][:2] == ["p1", "p0"]
    assert "sigma" not in ready
    write_prompts(tmp_path, outcome("b", [0.2]), keep=True)
    write_prompts(tmp_path, outcome("a", [0.4]), keep=True)
    found = pq.read_table(tmp_path / "prompts.parquet").to_pydict()
    assert list(zip(found["checkpoint"], found["readiness"], strict=True)) == [
        ("b", 0.2),
        ("a", 0.4),
    ]
    write_prompts(tmp_path, outcome("b", [0.2]))
    assert pq.read_table(tmp_path / "prompts.parquet")["checkpoint"].to_pylist() == ["b"]
