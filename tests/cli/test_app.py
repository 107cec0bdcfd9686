"""The command line: exit codes, messages, and what it loads before it answers."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from valuegrad.cli.app import COMMANDS, make_app, run

HEAVY = ("torch", "transformers", "altair")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scor"], "Did you mean"),
        (["score"], "CHECKPOINT: got nothing; wanted a value. Fix: see `valuegrad score --help`"),
        (["trace", "{}"], "--prompt: got nothing"),
        (["score", "{}", "--updates", "2", "4"], "CHECKPOINT|4"),
        (["study", "{}/config.json", "4"], "arguments: got '4'"),
        (["score", "{}", "--dtype", "bfloat16"], "--dtype: got 'bfloat16'; wanted one of float32"),
        (["score", "{}", "--updtes", "3"], "Did you mean"),
        (["score", "{}", "--updates", "3,ten"], "--updates: got 'ten'; wanted a whole number"),
        (["score", "{}", "--updates", "3,2"], "--updates: got"),
        (["score", "{}", "--method", "grop"], "--method: got 'grop'.*did you mean 'grpo'"),
        (["score", "{}", "--group-size", "many"], "--group-size: got 'many'; wanted a whole num"),
        (["score", "{}", "--learning-rate", "-1"], "--learning-rate: got -1.0; wanted a number ab"),
        (["score", "{}", "--site", "9"], "--site: got '9'; wanted one of embedding, 0, 1, final"),
        (["score", "{}", "--alpha", "0"], "--alpha: got 0"),
        (["score", "{}", "--prompts", "16.9"], "--prompts: got '16.9'; wanted a whole number"),
        (["score", "{}", "--prompts", "true"], "--prompts: got 'true'; wanted a whole number"),
        (["score", "{}", "--task-seed", "1.5"], "--task-seed: got '1.5'; wanted a whole number"),
        (["score", "{}", "--clip", "nan"], "--clip: got nan; wanted a finite number"),
        (["trace", "{}", "--prompt", "x", "--seed", "1.5"], "--seed: got '1.5'; wanted a whole"),
        (["score", "{}", "--digits", "3"], "--digits: got 3; wanted none for label-copy"),
        (["score", "{}", "--out", "{}/config.json/x"], "--out: got .* below the file"),
        (["score", "{}", "--dtype", "int4"], "dtype: got 'int4'"),
        (["score", "{}", "--device", "tpu9"], "device: got 'tpu9'"),
        (["score", "{}", "--task", "label-cpoy"], "task: got 'label-cpoy'"),
        (["score", "{}"], "prompt .* tokens; wanted 1 to 47, .* in a context of 48"),
        (["score", "{}", "--out", "{}"], "holds something else"),
        (["score", "none*"], "matches no folder"),
        (["train", "none"], "no folder here, and no answer from the hub|neither a folder here"),
        (["train", "{}", "--seeds", "0"], "--seeds: got 0"),
        (["study", "none.toml"], "CONFIG: got none.toml"),
        (["study", "none.toml", "--set", "alpha"], "--set: got 'alpha'; wanted KEY=VALUE"),
        (["report", "none"], "STUDY_DIR: got none"),
        (["verify"], "CHECKPOINT: got nothing"),
        (["verify", "none"], "no folder here, and no answer from the hub|neither a folder here"),
        (["verify", "{}", "--dtype", "float32"], "dtype: got float32; wanted float64"),
        (["verify", "{}", "--prompt", ""], "--prompt: got '' of 0 tokens"),
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


@pytest.mark.parametrize(
    ("words", "code", "light"),
    [
        (["--help"], 0, True),
        ([], 0, True),
        (["--version"], 0, True),
        (["bogus"], 2, False),
        (["--bogus"], 2, False),
        (["score", "--bogus", "x"], 2, False),
        (["score", "x", "--seeds", "0"], 2, False),
        (["trace", "--help"], 0, False),
        *(([name, "--bogus"], 2, False) for name in COMMANDS),
    ],
)
def test_help_and_a_wrong_word_are_answered_without_torch(words, code, light):
    heavy = (*HEAVY, "cyclopts", "pydantic", "rich") if light else HEAVY
    program = (
        "import sys; from valuegrad.cli.app import run; code = run(sys.argv[1:]); "
        f"loaded = [name for name in {heavy} if name in sys.modules]; "
        "sys.exit(f'loaded {loaded}' if loaded else code)"
    )
    words = [sys.executable, "-c", program, *words]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert (done.stdout != "") == (code == 0)


def test_the_help_has_a_line_for_each_command(capsys):
    assert run(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 88 for line in lines)
    for name, (_, summary) in COMMANDS.items():
        assert f"  {name:<12} {summary}" in lines
        assert name in make_app()


def test_a_commands_help_is_the_whole_docstring_with_its_flags(capsys):
    assert run(["score", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "Example: valuegrad score" in printed
    for flag in ("--alpha", "--task-seed", "--updates", "--rollouts", "--out", "10,20,25,30"):
        assert flag in printed


def test_an_interrupt_leaves_with_1_and_says_how_to_go_on(flags, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("valuegrad.study.run.run_study", interrupted)
    assert run(["score", "x", *flags]) == 1
    assert "go on from here with the same --out" in capsys.readouterr().err
