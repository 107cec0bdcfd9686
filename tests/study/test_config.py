"""A study's configuration: what TOML may say, and what is said of the rest."""

import json

import pytest

from valuegrad.errors import UserError
from valuegrad.study.config import StudyConfig, load_config


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
        ("checkpoints = ['a']\n[budget]\nseeds = true", "budget.seeds: got True; wanted a whole"),
        ("checkpoints = ['a']\n[budget]\nseeds = 0", r"c\.toml: budget.seeds: got 0; wanted 1 or"),
        ("checkpoints = ['a']\nalpha = '5'", "alpha: got '5'; wanted a number"),
        ("checkpoints = [", "does not parse"),
    ],
)
def test_a_configuration_that_is_wrong_names_the_key(tmp_path, text, message):
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(tmp_path / "c.toml")


def test_flags_lie_on_top_of_the_file(tmp_path):
    (tmp_path / "c.toml").write_text("checkpoints = ['a']\n[budget]\nseeds = 2")
    config = load_config(tmp_path / "c.toml", {"budget.seeds": 5, "task.prompts": 8})
    assert (config.budget.seeds, config.task.prompts, config.alpha) == (5, 8, 5.0)
    with pytest.raises(UserError, match=r"config: got .*none\.toml"):
        load_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": "x"}, "^alpha: got 'x'; wanted a number. Fix: .* the default is 5.0"),
        ({"site": 1.5}, "^site: got 1.5; wanted a whole number"),
        ({"task": "label-copy"}, "^task: got 'label-copy'; wanted a table of keys"),
        ({"checkpoints": "runs/x"}, "checkpoints: got 'runs/x'; wanted a list in brackets"),
        ({"task": {"name": 3}}, "^task.name: got 3; wanted a text in quotes"),
        ({"budget": {"seeds": 1.5}}, "^budget.seeds: got 1.5; wanted a whole number"),
        ({"budget": {"updates": 10}}, r"budget.updates: got 10; .*default is \[10, 20, 25, 30\]"),
        ({"budget": {"updates": [1, "x"]}}, "budget.updates: got 'x'; wanted a whole number"),
        ({"budget": {"method": "gpo"}}, "budget.method: got 'gpo'; .*did you mean 'grpo'"),
        ({"sampling": {"estimator": "x"}}, "wanted one of auto, closed-form, sampled. Fix: choose"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_with_what_was_wanted(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        StudyConfig(**{"checkpoints": ["a"], **changes})
    assert "Input should" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("task.name.foo", "task.name: got {'foo': 1}; wanted a text"),
        ("checkpoints.x", "checkpoints: got {'x': 1}; wanted a list"),
        ("seeds.x", "seeds: got an unknown key"),
    ],
)
def test_a_key_below_a_value_is_refused(tmp_path, key, message):
    path = tmp_path / "study.toml"
    path.write_text('checkpoints = ["a"]\n[task]\nname = "label-copy"\n')
    with pytest.raises(UserError, match=message):
        load_config(path, {key: 1})


def test_whole_numbers_of_a_file_are_numbers_and_the_resolved_text_has_every_default():
    changes = {"alpha": 4, "budget": {"learning_rate": 1, "updates": [1, 2]}}
    resolved = json.loads(StudyConfig(**{"checkpoints": ["a"], **changes}).resolved())
    assert resolved["checkpoints"] == ["a"]
    assert repr(resolved["alpha"]) == "4.0"
    assert repr(resolved["budget"]["learning_rate"]) == "1.0"
    assert resolved["budget"]["updates"] == [1, 2]
    assert resolved["task"]["labels"] == ["A", "B", "C", "D"]
    assert resolved["sampling"]["probe_steps"] is None
