"""Flags: every setting has one, with its own default, and words are read as a shell leaves them."""

from dataclasses import fields

import pytest

from valuegrad.budget import Budget
from valuegrad.cli.app import make_app
from valuegrad.impact.settings import Sampling
from valuegrad.study.config import StudyConfig
from valuegrad.tasks.settings import TaskSettings


def bound(*words):
    """The arguments that a command line gives to its command."""
    _, found, _ = make_app().parse_args(list(words), exit_on_error=False)
    return found.arguments


def test_every_setting_is_a_flag_with_its_own_default():
    arguments = make_app()["score"].assemble_argument_collection()
    found = {a.name: a.field_info.default for a in arguments if not a.children}
    for owner in (Budget, TaskSettings, Sampling):
        for field in fields(owner):
            name = field.name
            if owner is TaskSettings:
                name = {"name": "task", "seed": "task_seed"}.get(name, name)
            assert found["--" + name.replace("_", "-")] == field.default
    for name in ("site", "alpha", "dtype"):
        assert found[f"--{name}"] == getattr(StudyConfig, name)


def test_words_become_settings():
    words = ["--updates", "3,4", "--learning-rate", "1", "--labels", "A,B", "--probe-steps", "2"]
    found = bound("score", "x", *words)
    assert found["budget"] == Budget(updates=(3, 4), learning_rate=1.0)
    assert found["task"] == TaskSettings(labels=("A", "B"))
    assert found["sampling"] == Sampling(probe_steps=2)
    assert bound("score", "x", "y")["checkpoints"] == ["x", "y"]


def test_a_flag_may_spell_a_line_break_as_a_shell_leaves_it():
    words = ["--stop", r"\n", "--prompt-template", r"Q: {prompt}\nA:", "--task", r"a\nb"]
    found = bound("score", "x", *words)["task"]
    assert (found.stop, found.prompt_template) == ("\n", "Q: {prompt}\nA:")
    assert found.name == r"a\nb"


@pytest.mark.parametrize("pair", ["dtype=float64", "dtype='float64'"])
def test_set_takes_a_bare_word_for_a_text(pair):
    from valuegrad.cli.study import assignments

    assert assignments([pair, "budget.updates=[1, 2]"]) == {
        "dtype": "float64",
        "budget.updates": [1, 2],
    }


@pytest.mark.parametrize(
    ("text", "size"),
    [("50GB", 50 * 10**9), ("1.5TB", 1_500_000_000_000), ("200 MiB", 200 * 2**20), ("7", 7)],
)
def test_a_limit_is_in_bytes(text, size):
    assert bound("score", "x", "--cache-limit", text)["common"].cache_limit == size
