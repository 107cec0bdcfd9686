"""Every command on tiny models of five architectures, with tasks of one token and of several."""

import json

import pytest
from tests.conftest import ARCHITECTURES

from valuegrad.cli.app import run

ARITHMETIC = ["--task", "arithmetic", "--prompts", "3", "--train-prompts", "6", "--digits", "1"]
BUDGET = ["--learning-rate", "1e-3", "--updates", "1", "--group-size", "4"]


@pytest.fixture(params=ARCHITECTURES)
def folder(request, checkpoint):
    return str(checkpoint(request.param))


@pytest.fixture
def one_token(tmp_path):
    path = tmp_path / "task.jsonl"
    rows = ({"prompt": f"offset {i}: '", "answer": "B" if i % 2 else "a"} for i in range(12))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--task", str(path)]


def answered(capsys, words):
    """The JSON document of a command that ends well."""
    capsys.readouterr()
    assert run([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_score_measures_in_all_three_ways(folder, one_token, capsys):
    words = ["score", folder, *BUDGET, "--rollouts", "6"]
    ways = {
        "vocabulary": one_token,
        "teacher-forced": ARITHMETIC,
        "sampled": [*ARITHMETIC, "--reward", "number", "--max-tokens", "4", "--branch", "1"],
    }
    for way, task in ways.items():
        (found,) = answered(capsys, [*words, *task])
        assert found["estimator"] == way
        assert found["reward_before"] is not None
        assert found["probe_step"] is not None


def test_train_runs_in_both_engines(folder, one_token, capsys):
    words = ["train", folder, *BUDGET, "--seeds", "1", "--prompts-per-update", "2"]
    for engine, task in (("one_token", one_token), ("trl", ARITHMETIC)):
        (found,) = answered(capsys, [*words, *task])
        assert found["engine"] == engine
        assert found["gain"] == found["reward_after"] - found["reward_before"]


def test_a_study_goes_from_scores_to_a_page(folder, tmp_path, capsys):
    config = tmp_path / "study.toml"
    config.write_text(
        f"checkpoints = [{folder!r}]\n[task]\nname = 'arithmetic'\ndigits = 1\nprompts = 3\n"
        "train_prompts = 6\n[budget]\nupdates = [1]\nseeds = 1\ngroup_size = 4\n"
        "prompts_per_update = 2\n"
    )
    out = str(tmp_path / "out")
    study = answered(capsys, ["study", str(config), "--out", out])
    assert study["best"] == folder
    assert answered(capsys, ["report", out])["report"].endswith("report.html")


def test_the_theory_commands_and_the_listing_answer(folder, one_token, capsys):
    points = answered(capsys, ["bound", folder, *one_token, "--examples", "1", "--positions", "2"])
    assert points[-1]["violations"] == 0
    traced = answered(capsys, ["trace", folder, "--prompt", "label =", "--completion", " 'B'"])
    assert len(traced["total"]) == len(traced["sites"])
    assert answered(capsys, ["checkpoints", folder])[0]["step"] == 7
