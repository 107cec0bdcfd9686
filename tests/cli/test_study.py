"""The commands that measure and train: their JSON, tables and files."""

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from valuegrad.cli.app import run
from valuegrad.tasks.jsonl import jsonl_task

SCORE_KEYS = {
    *("checkpoint", "revision", "step", "tokens", "weights_sha256", "task", "task_sha256"),
    *(
        "method",
        "site",
        "alpha",
        "n_prompts",
        "n_prompts_available",
        "group_size",
        "closed_form",
        "reward_before",
    ),
    *("sigma", "lambda_conditional", "lambda_sample", "alignment", "headroom", "headroom_pooled"),
    *("p_gap", "p_gap_conditional", "p_alignment", "probe_step", "entropy", "reward_variance"),
    *("pass_at_k", "gradient_norm", "zero_spread_groups", "standard_errors", "seconds"),
}
TRAIN_KEYS = {
    *("checkpoint", "step", "seed", "updates", "reward_before", "reward_after", "gain"),
    *("learning_rate", "prompts_per_update", "group_size", "engine"),
}
PREDICTOR_KEYS = {
    *("spearman_gain", "spearman_gain_interval", "p_value", "partial_given_reward"),
    *("spearman_after", "regret", "partial_given_step", "test"),
}


def test_score_prints_one_json_document_and_nothing_else(checkpoint, flags, tmp_path):
    folder, out = checkpoint("olmo2"), tmp_path / "out"
    words = [sys.executable, "-m", "valuegrad", "score", str(folder), *flags, "--json"]
    done = subprocess.run([*words, "--out", str(out)], capture_output=True, text=True, check=True)
    (score,) = json.loads(done.stdout)
    assert set(score) >= SCORE_KEYS
    assert (score["checkpoint"], score["step"], score["closed_form"]) == (str(folder), 7, True)
    rows = pq.read_table(out / "prompts.parquet")
    assert rows.num_rows == score["n_prompts"]
    for method in ("grpo", "dr_grpo", "rloo", "reinforce", "ppo"):
        assert f"lambda_sample:{method}" in rows.column_names
    mean = sum(rows["reward"].to_pylist()) / rows.num_rows
    assert mean == pytest.approx(score["reward_before"], rel=1e-12)


def test_score_says_how_many_of_a_files_prompts_it_measured(checkpoint, tmp_path, capsys):
    lines = (json.dumps({"prompt": f"offset {i}: '", "answer": "B"}) + "\n" for i in range(40))
    (tmp_path / "t.jsonl").write_text("".join(lines))
    words = [
        "score",
        str(checkpoint("gpt2")),
        "--task",
        str(tmp_path / "t.jsonl"),
        "--updates",
        "1",
    ]
    words += ["--prompts", "6"]
    assert run([*words, "--out", str(tmp_path / "out"), "--json"]) == 0
    (score,) = json.loads(capsys.readouterr().out)
    whole = jsonl_task(tmp_path / "t.jsonl")
    assert (score["n_prompts"], score["n_prompts_available"]) == (6, len(whole.evaluation))
    for command in ("score", "train"):
        assert run([command, *words[1:], *["--seeds", "1"] * (command == "train")]) == 0
        assert f"over 6 of {len(whole.evaluation)} held-out prompts" in capsys.readouterr().out


def test_train_prints_a_row_per_seed_and_budget(checkpoint, flags, capsys):
    assert run(["train", str(checkpoint("gpt2")), *flags, "--seeds", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["seed"], row["updates"]) for row in rows] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    for row in rows:
        assert set(row) >= TRAIN_KEYS
        assert row["gain"] == pytest.approx(row["reward_after"] - row["reward_before"])


def test_train_prints_the_mean_of_several_seeds(checkpoint, flags, capsys):
    assert run(["train", str(checkpoint("gpt2")), *flags, "--seeds", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert run(["train", str(checkpoint("gpt2")), *flags, "--seeds", "2"]) == 0
    printed = capsys.readouterr().out.splitlines()
    means = [line.split() for line in printed if " mean " in line]
    gains = [[row["gain"] for row in rows if row["updates"] == k] for k in (1, 2)]
    assert [float(line[5]) for line in means] == pytest.approx([*map(np.mean, gains)], rel=1e-2)
    deviations = [np.std(gain, ddof=1) for gain in gains]
    assert [float(line[6]) for line in means] == pytest.approx(deviations, rel=1e-2)
    assert run(["train", str(checkpoint("gpt2")), *flags, "--seeds", "1"]) == 0
    assert "mean" not in capsys.readouterr().out


def test_runs_are_written_where_out_says_and_not_made_again(checkpoint, flags, tmp_path, capsys):
    out = tmp_path / "runs"
    words = ["train", str(checkpoint("gpt2")), *flags, "--seeds", "1", "--json", "--out", str(out)]
    assert run(words) == 0
    rows = json.loads(capsys.readouterr().out)
    assert json.loads((out / "train.json").read_text()) == rows
    assert run(words) == 0
    assert "1 result was in" in capsys.readouterr().err


def test_set_and_flags_reach_the_configuration(checkpoint, task_file, tmp_path, capsys):
    config = tmp_path / "study.toml"
    config.write_text(
        f"checkpoints = [{str(checkpoint('gpt2'))!r}]\n[task]\nname = '{task_file}'\n"
    )
    words = ["study", str(config), "--no-train", "--set", "budget.seed=7", "--set", "dtype=float64"]
    assert run([*words, "--out", str(tmp_path / "a")]) == 0
    found = json.loads((tmp_path / "a" / "study-config.json").read_text())
    assert (found["budget"]["seed"], found["dtype"]) == (7, "float64")
    assert run([*words, "--seed", "9", "--out", str(tmp_path / "b")]) == 0
    found = json.loads((tmp_path / "b" / "study-config.json").read_text())
    assert found["budget"]["seed"] == 9
    few = [str(config), "--set", "budget.updates=[1]", "--set", "budget.seeds=1"]
    capsys.readouterr()
    assert run(["study", *few, "--out", str(tmp_path / "c")]) == 0
    assert "No correlations: fewer than 4" in capsys.readouterr().out


def test_scores_of_one_folder_may_come_one_by_one(checkpoint, flags, tmp_path, capsys):
    first, second = str(checkpoint("gpt2")), str(checkpoint("llama"))
    for folders in ([first], [second], [first]):
        assert run(["score", *folders, *flags, "--out", str(tmp_path / "out")]) == 0
        capsys.readouterr()
    for name in ("readiness", "prompts"):
        rows = pq.read_table(tmp_path / "out" / f"{name}.parquet").to_pydict()
        counts = Counter(rows["checkpoint"])
        assert set(counts) == {first, second}
        assert counts[first] == counts[second] == len(set(rows["prompt"]))


def test_study_writes_the_page_and_its_json(checkpoint, flags, task_file, tmp_path, capsys):
    config = tmp_path / "study.toml"
    folders = [str(checkpoint(a)) for a in ("olmo2", "llama", "gpt2", "gpt_neox")]
    config.write_text(f"checkpoints = {folders}\n[task]\nname = '{task_file}'\n")
    words = ["study", str(config), "--out", str(tmp_path / "out"), "--json"]
    words += ["--set", "budget.updates=[1, 2]", "--set", "budget.seeds=1"]
    assert run(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["ranking"]) == set(folders)
    assert document["best"] == document["ranking"][0]
    assert len(document["predictors"]) >= 10
    for predictor in document["predictors"].values():
        assert set(predictor) >= PREDICTOR_KEYS
    for law in document["laws"].values():
        assert {"constants", "leave_one_out_error"} <= set(law)
    for row in document["checkpoints"]:
        assert {*SCORE_KEYS, "gain_mean", "gain_by_updates", "reward_after_mean"} <= set(row)
    for path in (document["paths"]["report"], *document["paths"]["figures"]):
        assert (tmp_path / path).stat().st_size > 1000
    assert run(["report", str(tmp_path / "out"), "--json", "--out", str(tmp_path / "r")]) == 0
    paths = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "r" / "report.json").read_text()) == paths == document["paths"]


def test_study_without_training_ranks(checkpoint, task_file, tmp_path, capsys):
    config = tmp_path / "study.toml"
    folders = [str(checkpoint(a)) for a in ("olmo2", "llama")]
    config.write_text(f"checkpoints = {folders}\n[task]\nname = '{task_file}'\n")
    assert run(["study", str(config), "--out", str(tmp_path / "out"), "--no-train"]) == 0
    printed = capsys.readouterr().out
    assert "file://" in printed
    assert not list((tmp_path / "out" / "records").glob("train-*"))
