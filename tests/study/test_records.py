"""Records: whole or not there, tied to one configuration."""

import math
import resource

import pytest

from valuegrad.errors import RunError, UserError
from valuegrad.study.config import StudyConfig
from valuegrad.study.records import Record, Records, claim, forget


def test_a_record_comes_back_and_another_input_does_not_find_it(tmp_path):
    records = Records(tmp_path)
    records.put("score", {"a": 1}, Record({"value": 0.1, "nothing": math.nan}, 2.0))
    assert records.get("score", {"a": 1}) == Record({"value": 0.1, "nothing": None}, 2.0)
    assert records.get("score", {"a": 2}) is None
    assert records.get("train", {"a": 1}) is None


def test_a_damaged_record_is_named(tmp_path):
    records = Records(tmp_path)
    records.put("score", {}, Record({}, 0.0))
    path = next((tmp_path / "records").iterdir())
    path.write_text("{")
    with pytest.raises(UserError, match=f"{path.name}.*damaged record.*delete"):
        records.get("score", {})


def test_a_folder_belongs_to_one_configuration_but_may_see_more_checkpoints(tmp_path):
    def resolved(**changes):
        return StudyConfig(**{"checkpoints": ["a"], **changes}).resolved()

    folder = tmp_path / "study"
    assert claim(folder, resolved())
    assert not claim(folder, resolved())
    assert not claim(folder, resolved(checkpoints=["a", "b"]))
    with pytest.raises(UserError, match=r"budget\.seeds is 3 there, 1 here"):
        claim(folder, resolved(budget={"seeds": 1}))
    forget(folder)
    assert not folder.exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(UserError, match="holds something else"):
        claim(tmp_path / "other", resolved())


def test_a_folder_with_finished_records_is_never_forgotten(tmp_path):
    Records(tmp_path).put("score", {}, Record({}, 0.0))
    forget(tmp_path)
    assert Records(tmp_path).get("score", {}) is not None


def test_a_full_disk_keeps_what_was_finished(tmp_path):
    records = Records(tmp_path)
    records.put("score", {"n": 1}, Record({}, 0.0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(RunError, match=r"could not be written.*run the same command again"):
            records.put("score", {"n": 2}, Record({"rows": list(range(10_000))}, 0.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert records.get("score", {"n": 1}) is not None
    assert records.get("score", {"n": 2}) is None
    assert len(list((tmp_path / "records").iterdir())) == 1


def test_a_folder_of_a_version_with_other_keys_is_another_configuration(tmp_path):
    claim(tmp_path / "s", '{"sampling": {"rollouts": 32}}')
    with pytest.raises(UserError, match="probe_prompts is unknown there, None here"):
        claim(tmp_path / "s", '{"sampling": {"rollouts": 32, "probe_prompts": null}}')
