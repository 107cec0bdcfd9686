"""Records: whole or not there, tied to one configuration."""

import json
import math
import resource

import pytest

from valuegrad.errors import RunError, UserError
from valuegrad.files import to_json, write_atomically
from valuegrad.study.config import load_config, parse_config
from valuegrad.study.records import Record, Records, claim, forget


def test_a_record_comes_back_and_another_input_does_not_find_it(tmp_path):
    records = Records(tmp_path)
    records.put(Record("score", {"a": 1}, {"value": 0.1, "nothing": math.nan}, 2.0))
    found = records.get("score", {"a": 1})
    assert found == Record("score", {"a": 1}, {"value": 0.1, "nothing": None}, 2.0)
    assert records.get("score", {"a": 2}) is None
    assert records.get("train", {"a": 1}) is None


def test_a_damaged_record_is_named(tmp_path):
    records = Records(tmp_path)
    records.put(Record("score", {}, {}, 0.0))
    path = next((tmp_path / "records").iterdir())
    path.write_text("{")
    with pytest.raises(UserError, match=f"{path.name}.*damaged record.*delete"):
        records.get("score", {})


def test_json_holds_no_nan():
    assert json.loads(to_json({"a": [math.nan, math.inf, 1.5, None, True, 2]})) == {
        "a": [None, None, 1.5, None, True, 2]
    }


def test_a_folder_belongs_to_one_configuration_but_may_see_more_checkpoints(tmp_path):
    def resolved(**changes):
        return parse_config({"checkpoints": ["a"], **changes}).resolved()

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
    Records(tmp_path).put(Record("score", {}, {}, 0.0))
    forget(tmp_path)
    assert Records(tmp_path).get("score", {}) is not None


def test_a_full_disk_keeps_what_was_finished(tmp_path):
    records = Records(tmp_path)
    records.put(Record("score", {"n": 1}, {}, 0.0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(RunError, match=r"could not be written.*run the same command again"):
            records.put(Record("score", {"n": 2}, {"rows": list(range(10_000))}, 0.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert records.get("score", {"n": 1}) is not None
    assert records.get("score", {"n": 2}) is None
    assert len(list((tmp_path / "records").iterdir())) == 1


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(RunError):
        write_atomically(path / "below", "new")
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("checkpoint = ['a']", "checkpoint: got an unknown key.*did you mean 'checkpoints'"),
        ("checkpoints = ['a']\n[budget]\nlearningrate = 1", "did you mean 'learning_rate'"),
        ("checkpoints = ['a']\n[task]\nzzz = 1", "task.zzz: got an unknown key.*known keys: name"),
        ("checkpoints = []", "checkpoints: got an empty list"),
        ("", "checkpoints: got nothing"),
        ("checkpoints = ['a']\n[budget]\nupdates = [3, 1]", "updates: got .3, 1."),
        ("checkpoints = ['a']\n[budget]\nseeds = 'x'", "budget.seeds: got 'x'"),
        ("checkpoints = ['a']\n[budget]\nmethod = 'grpoo'", "method: got 'grpoo'"),
        ("checkpoints = ['a']\nalpha = -1.0", "alpha: got -1.0"),
        ("checkpoints = ['a']\ndtype = 'int8'", "dtype: got 'int8'"),
        ("checkpoints = [", "does not parse"),
    ],
)
def test_a_configuration_that_is_wrong_names_the_key(tmp_path, text, message):
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(tmp_path / "c.toml")


def test_flags_lie_on_top_of_the_file(tmp_path):
    (tmp_path / "c.toml").write_text("checkpoints = ['a']\n[budget]\nseeds = 2")
    config = load_config(tmp_path / "c.toml", {"budget.seeds": 5, "task.prompts": 8, "alpha": None})
    assert (config.budget.seeds, config.task.prompts, config.alpha) == (5, 8, 5.0)
    with pytest.raises(UserError, match=r"CONFIG: got .*none\.toml"):
        load_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": "x"}, "config: alpha: got 'x'; wanted a number. Fix: .* the default is 5.0"),
        ({"site": 1.5}, "config: site: got 1.5; wanted a whole number"),
        ({"task": "label-copy"}, "config: task: got 'label-copy'; wanted a table of keys"),
        ({"checkpoints": "runs/x"}, "checkpoints: got 'runs/x'; wanted a list in brackets"),
        ({"task": {"name": 3}}, "config: task.name: got 3; wanted a text in quotes"),
        ({"budget": {"seeds": 1.5}}, "config: budget.seeds: got 1.5; wanted a whole number"),
        ({"budget": {"updates": 10}}, r"budget.updates: got 10; .*default is \[10, 20, 25, 30\]"),
        ({"budget": {"updates": [1, "x"]}}, "budget.updates: got 'x'; wanted a whole number"),
        ({"budget": {"method": "gpo"}}, "budget.method: got 'gpo'; .*did you mean 'grpo'"),
        ({"sampling": {"estimator": "x"}}, "wanted one of auto, closed-form, sampled. Fix: choose"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_with_what_was_wanted(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_config({"checkpoints": ["a"], **changes})
    assert "Input should" not in str(caught.value)


@pytest.mark.parametrize("pair", ["task.name.foo=1", "checkpoints.x=1"])
def test_a_key_below_a_value_is_refused(tmp_path, pair):
    path = tmp_path / "study.toml"
    path.write_text('checkpoints = ["a"]\n[task]\nname = "label-copy"\n')
    key, _, value = pair.partition("=")
    with pytest.raises(UserError, match=f"--set: got {key}, below something that is no table"):
        load_config(path, {key: value})


def test_a_folder_of_a_version_with_other_keys_is_another_configuration(tmp_path):
    claim(tmp_path / "s", '{"sampling": {"rollouts": 32}}')
    with pytest.raises(UserError, match="probe_prompts is unknown there, None here"):
        claim(tmp_path / "s", '{"sampling": {"rollouts": 32, "probe_prompts": null}}')
