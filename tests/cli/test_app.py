"""The command line: exit codes, messages, and the JSON contract."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from valuegrad.cli.app import run
from valuegrad.cli.messages import doubts
from valuegrad.demo.text import standard_library
from valuegrad.tasks.settings import TaskSettings
from valuegrad.theory.statement import inequality
from valuegrad.theory.verify import PARTS

SCORE_KEYS = {
    *("checkpoint", "revision", "step", "tokens", "weights_sha256", "task", "task_sha256"),
    *("method", "site", "alpha", "n_prompts", "group_size", "closed_form", "reward_before"),
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
    *("spearman_after", "regret"),
}


@pytest.fixture
def task_file(tmp_path):
    path = tmp_path / "task.jsonl"
    rows = ({"prompt": f"offset {i}: '", "answer": "B" if i % 2 else "a"} for i in range(24))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def flags(task_file):
    return ["--task", str(task_file), "--updates", "1,2", "--learning-rate", "1e-3"]


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


def test_lists_and_runs_are_written_where_out_says(checkpoint, flags, tmp_path, capsys):
    folder = str(checkpoint("gpt2"))
    assert run(["checkpoints", folder, "--json", "--out", str(tmp_path / "list")]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "list" / "checkpoints.json").read_text()) == rows
    words = ["train", folder, *flags, "--seeds", "1", "--json", "--out", str(tmp_path / "runs")]
    assert run(words) == 0
    rows = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "runs" / "train.json").read_text()) == rows
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


def test_a_score_without_right_answers_suggests_a_stop(capsys):
    score = {"label": "step7", "estimator": "teacher-forced", "reward_before": 1e-8, "truncated": 0}
    score |= {"probe_prompts": 128, "n_prompts": 256}
    (doubt,) = doubts(score, TaskSettings(name="some.jsonl"))
    assert r"--stop '\n'" in doubt
    assert not doubts(score, TaskSettings(name="some.jsonl", stop="\n"))
    assert not doubts(score, TaskSettings(name="arithmetic"))
    assert not doubts({**score, "reward_before": 0.01}, TaskSettings(name="some.jsonl"))
    cut = {**score, "reward_before": 0.01, "truncated": 0.9}
    assert "90% of the completions of step7" in doubts(cut, TaskSettings())[0]
    few = {**score, "reward_before": 0.01, "probe_prompts": 3}
    assert "rests on 3 training prompts" in doubts(few, TaskSettings())[0]


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
    assert run(["report", str(tmp_path / "out"), "--json"]) == 0


def test_study_without_training_ranks(checkpoint, task_file, tmp_path, capsys):
    config = tmp_path / "study.toml"
    folders = [str(checkpoint(a)) for a in ("olmo2", "llama")]
    config.write_text(f"checkpoints = {folders}\n[task]\nname = '{task_file}'\n")
    assert run(["study", str(config), "--out", str(tmp_path / "out"), "--no-train"]) == 0
    printed = capsys.readouterr().out
    assert "file://" in printed
    assert not list((tmp_path / "out" / "records").glob("train-*"))


def test_verify_prints_every_statement_and_what_holds(checkpoint, tmp_path, capsys):
    folder = str(checkpoint("gpt2"))
    assert run(["verify", folder, "--json", "--out", str(tmp_path / "v")]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows == json.loads((tmp_path / "v" / "verify.json").read_text())
    keys = {"name", "source", "left", "right", "error", "holds", "slack", "form"}
    assert all(set(row) >= keys for row in rows)
    assert all(row["holds"] for row in rows if row["form"] == "corrected")
    assert run(["verify", folder]) == 0
    assert "0 fail; of 4 forms as in the paper 4 fail here" in capsys.readouterr().out


def test_verify_leaves_with_1_where_a_corrected_statement_fails(checkpoint, capsys, monkeypatch):
    def wrong(case):
        yield inequality("two ≤ one", "arithmetic", 2.0, 1.0)

    monkeypatch.setitem(PARTS, "Theorem 1", wrong)
    assert run(["verify", str(checkpoint("gpt2"))]) == 1
    assert "fails: two ≤ one (arithmetic)" in capsys.readouterr().err


def test_bound_ends_with_its_summary_and_draws(checkpoint, flags, tmp_path, capsys):
    folders = [str(checkpoint(name)) for name in ("olmo2", "gpt2")]
    words = ["bound", *folders, *flags[:2], "--examples", "3", "--positions", "2"]
    assert run([*words, "--json", "--out", str(tmp_path / "b")]) == 0
    *points, summary = json.loads(capsys.readouterr().out)
    assert {p["checkpoint"] for p in points} == set(folders)
    assert (summary["summary"], summary["points"], summary["violations"]) == (True, 12, 0)
    assert len({p["prompt"] for p in points}) == 3
    kinds = {path.name for path in (tmp_path / "b").iterdir()}
    assert kinds == {"bound.json", "bound.svg", "bound.png", "bound.html"}
    assert run([*words, "--dtype", "float64"]) == 0
    assert "12 points, 0 violations" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scor"], "Did you mean"),
        (["score"], "CHECKPOINT: got nothing; wanted a value. Fix: see `valuegrad score --help`"),
        (["trace", "{}"], "--prompt: got nothing"),
        (["score", "{}", "--updates", "2", "4"], "CHECKPOINT|4"),
        (["study", "{}/config.json", "4"], "arguments: got '4'"),
        (["score", "{}", "--dtype", "bfloat16"], "--dtype: got 'bfloat16'; wanted float32 or"),
        (["score", "{}", "--updtes", "3"], "Did you mean"),
        (["score", "{}", "--updates", "3,ten"], "--updates: got '3,ten'; wanted a whole number"),
        (["score", "{}", "--updates", "3,2"], "--updates: got"),
        (["score", "{}", "--method", "grop"], "--method: got 'grop'.*did you mean 'grpo'"),
        (["score", "{}", "--group-size", "many"], "--group-size: got 'many'; wanted a whole num"),
        (["score", "{}", "--learning-rate", "-1"], "--learning-rate: got -1.0; wanted a number ab"),
        (["score", "{}", "--site", "9"], "--site: got '9'; wanted one of embedding, 0, 1, final"),
        (["score", "{}", "--alpha", "0"], "--alpha: got 0"),
        (["score", "{}", "--digits", "3"], "--digits: got 3; wanted none for label-copy"),
        (["score", "{}", "--out", "{}/config.json/x"], "--out: got .* below the file"),
        (["score", "{}", "--dtype", "int4"], "dtype: got 'int4'"),
        (["score", "{}", "--device", "tpu9"], "device: got 'tpu9'"),
        (["score", "{}", "--task", "label-cpoy"], "task: got 'label-cpoy'"),
        (["score", "{}"], "prompt .* tokens; wanted at most 47 in a context of 48"),
        (["score", "{}", "--out", "{}"], "holds something else"),
        (["score", "none*"], "matches no folder"),
        (["train", "none"], "no folder here, and no answer from the hub|neither a folder here"),
        (["train", "{}", "--seeds", "0"], "--seeds: got 0"),
        (["study", "none.toml"], "CONFIG: got none.toml"),
        (["report", "none"], "STUDY_DIR: got none"),
        (["verify"], "CHECKPOINT: got nothing"),
        (["verify", "none"], "no folder here, and no answer from the hub|neither a folder here"),
        (["verify", "{}", "--dtype", "float32"], "dtype: got float32; wanted float64"),
        (["verify", "{}", "--prompt", ""], "prompt: got 0 tokens"),
        (["verify", "{}", "--out", "{}/config.json"], "--out: got .*a file; wanted a folder"),
        (["bound", "none*"], "matches no folder"),
        (["bound", "{}", "--positions", "0"], "--positions: got 0"),
        (["bound", "{}", "--examples", "-1"], "--examples: got -1"),
        (["bound", "{}", "--temperature", "0"], "temperature: got 0"),
        (["bound", "{}", "--dtype", "bfloat16"], "--dtype: got 'bfloat16'"),
        (["bound", "{}", "--task", "label-cpoy"], "task: got 'label-cpoy'"),
        (["pretrain", __file__], "a file; wanted an empty or a new folder"),
        (["pretrain", "x", "--preset", "huge"], "one of demo, arithmetic, small, medium, large"),
    ],
)
def test_a_wrong_request_leaves_with_2_and_one_message(
    words, message, checkpoint, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folder = str(checkpoint("olmo2"))
    assert run([word.format(folder) for word in words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.search(message, printed.err), printed.err
    assert "Traceback" not in printed.err
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_does_not_fit_is_refused(checkpoint, tmp_path, capsys):
    folder = shutil.copytree(checkpoint("olmo2"), tmp_path / "step1")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["zzz"] = 999
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert run(["score", str(folder)]) == 2
    assert "a tokenizer with token ids up to 999" in capsys.readouterr().err


def test_the_standard_library_is_there_in_order():
    texts = standard_library()
    assert len(texts) > 300
    assert texts == standard_library()
