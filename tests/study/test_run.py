"""Whole studies: resuming, failing checkpoints, moved and changed weights."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from valuegrad.cli.app import run
from valuegrad.errors import UserError
from valuegrad.study.config import load_config
from valuegrad.study.run import run_study

SEED_COUNT, CHECKPOINTS = 2, 5


# A study that is killed as soon as it has written its third run.
KILLED = """
import os, signal, sys
from valuegrad.cli.app import run
from valuegrad.study.records import Records

put, kinds = Records.put, []

def put_and_die(self, measurement, *rest):
    put(self, measurement, *rest)
    kinds.append(measurement)
    if kinds.count("train") == 3:
        os.kill(os.getpid(), signal.SIGKILL)

Records.put = put_and_die
sys.exit(run(sys.argv[1:]))
"""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a study, timings taken out."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        if path.suffix == ".json":
            data = json.dumps(_without_timings(json.loads(data))).encode()
        if path.suffix == ".html":
            data = re.sub(rb"(<[^>]*data-timing[^>]*>)[^<]*", rb"\1", data)
        found[str(path.relative_to(folder))] = data
    return found


def _without_timings(value):
    if isinstance(value, dict):
        dropped = ("seconds", "train_seconds")
        return {k: _without_timings(v) for k, v in value.items() if k not in dropped}
    return [_without_timings(v) for v in value] if isinstance(value, list) else value


def test_a_killed_study_goes_on_to_the_same_bytes(config, tmp_path, monkeypatch):
    whole, cut = tmp_path / "a" / "out", tmp_path / "b" / "out"
    for folder in (whole.parent, cut.parent):
        folder.mkdir()
    words = ["study", str(config), "--out", "out"]
    program = [sys.executable, "-c", KILLED, *words]
    killed = subprocess.run(program, cwd=cut.parent, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    before = {p.name: p.stat().st_mtime_ns for p in (cut / "records").glob("*.json")}
    assert sum(name.startswith("train-") for name in before) == 3
    assert not (cut / "study.json").exists()
    for folder in (cut, whole):
        monkeypatch.chdir(folder.parent)
        assert run(words) == 0
    after = {p.name: p.stat().st_mtime_ns for p in (cut / "records").glob("*.json")}
    assert {name: after[name] for name in before} == before
    assert contents(cut) == contents(whole)
    assert len(after) == CHECKPOINTS * (1 + SEED_COUNT)


def test_a_finished_study_measures_nothing_again(config, tmp_path):
    loaded, out = load_config(config), tmp_path / "out"
    first = run_study(loaded, out)
    again = run_study(loaded, out)
    assert first.reused == 0
    assert again.reused == CHECKPOINTS * (1 + SEED_COUNT)
    assert [m.score for m in again.measured] == [m.score for m in first.measured]


def test_weights_decide_what_is_measured_again_and_names_do_not(config, trajectory, tmp_path):
    moved = shutil.copytree(trajectory, tmp_path / "moved")
    flags = {"checkpoints": [f"{moved}/step*"], "budget.seeds": 1}
    out = tmp_path / "out"
    run_study(load_config(config, {"budget.seeds": 1}), out)
    assert run_study(load_config(config, flags), out).reused == 2 * CHECKPOINTS
    shutil.copy(moved / "step10" / "model.safetensors", moved / "step20")
    changed = run_study(load_config(config, flags), out)
    assert changed.reused == 2 * CHECKPOINTS
    settings = moved / "step20" / "config.json"
    changed_text = settings.read_text().replace('"rms_norm_eps": 1e-05', '"rms_norm_eps": 1e-04')
    settings.write_text(changed_text)
    assert run_study(load_config(config, flags), out).reused == 2 * (CHECKPOINTS - 1)


def test_score_and_train_apart_make_the_same_records_as_together(config, tmp_path):
    loaded = load_config(config, {"budget.seeds": 1})
    run_study(loaded, tmp_path / "apart", measurements=("train",))
    run_study(loaded, tmp_path / "apart", measurements=("score",))
    run_study(loaded, tmp_path / "together")
    assert contents(tmp_path / "apart") == contents(tmp_path / "together")


def test_a_checkpoint_that_fails_is_reported_and_the_rest_go_on(config, trajectory, tmp_path):
    broken = shutil.copytree(trajectory, tmp_path / "some")
    weights = broken / "step30" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    flags = {"checkpoints": [f"{broken}/step*"], "budget.seeds": 1}
    outcome = run_study(load_config(config, flags), tmp_path / "out")
    assert [m.checkpoint.label for m in outcome.measured] == [
        "step10",
        "step20",
        "step40",
        "step50",
    ]
    assert list(outcome.failures) == [f"{broken}/step30"]
    assert "unreadable safetensors" in outcome.failures[f"{broken}/step30"]


def test_a_request_that_fails_everywhere_leaves_nothing_behind(config, tmp_path):
    task = Path(load_config(config).task.name)
    task.write_text('{"prompt": "lab", "answer": "el"}\n' + task.read_text())
    with pytest.raises(UserError, match=r"answer 'el': got the tokens .*the prompt's own tokens"):
        run_study(load_config(config), tmp_path / "out")
    assert not (tmp_path / "out").exists()
