"""The commands that list checkpoints and make some."""

import json

from valuegrad.cli.app import run
from valuegrad.demo.pretrain import PRESETS


def test_the_list_is_written_where_out_says(checkpoint, tmp_path, capsys):
    folder = str(checkpoint("gpt2"))
    assert run(["checkpoints", folder, "--json", "--out", str(tmp_path / "list")]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "list" / "checkpoints.json").read_text()) == rows
    assert [(row["checkpoint"], row["step"]) for row in rows] == [(folder, 7)]


def test_pretraining_gets_its_preset_and_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    asked = []

    def pretrain(folder, recipe, *, seed, device, progress):
        asked.append((recipe, seed, device))
        progress(recipe.steps, 0.5)
        return [folder / "step1"]

    monkeypatch.setattr("valuegrad.demo.pretrain.pretrain", pretrain)
    words = ["pretrain", str(tmp_path), "--preset", "arithmetic", "--seed", "3"]
    assert run(words) == 0
    printed = capsys.readouterr()
    assert printed.out == f"1 checkpoints: '{tmp_path}/step*'\n"
    steps = PRESETS["arithmetic"].steps
    assert f"pretraining {steps}/{steps}" in printed.err
    assert run([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [str(tmp_path / "step1")]
    assert asked == [(PRESETS["arithmetic"], 3, "cpu")] * 2
