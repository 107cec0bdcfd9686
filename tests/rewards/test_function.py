"""Rewards: what TRL's functions get and may return, and what is done about those that fail."""

import asyncio
import functools
import json
import math
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from valuegrad.cli.app import run
from valuegrad.errors import UserError
from valuegrad.rewards.exact import Exact
from valuegrad.rewards.example import Example
from valuegrad.rewards.function import FunctionReward
from valuegrad.rewards.named import reward_named
from valuegrad.tasks.arithmetic import arithmetic
from valuegrad.tasks.jsonl import jsonl_task
from valuegrad.tasks.settings import TaskSettings, build_task, probe_reward
from valuegrad.tasks.task import Task

EXAMPLES = [Example("p", "a", {"level": 1}), Example("q", "b", {"level": 2})]


def test_a_reward_function_gets_what_trl_would_give_it():
    seen = {}

    def reward(prompts, completions, **columns):
        seen.update(prompts=prompts, completions=completions, **columns)
        return [True, 2]

    assert FunctionReward("m:f", reward)(EXAMPLES, ["x", "y"]) == [1.0, 2.0]
    # TRL calls a function with these names, and with None for no trainer here.
    assert {k: v for k, v in seen.items() if not k.startswith("log_")} == {
        "prompts": ["p", "q"],
        "completions": ["x", "y"],
        "level": [1, 2],
        "answer": ["a", "b"],
        "trainer_state": None,
    }
    seen["log_extra"]("name", ["x", "y"])
    seen["log_metric"]("name", 1.0)
    FunctionReward("m:f", reward)(EXAMPLES, ["x", "y"], [(5,), (6, 7)])
    assert seen["completion_ids"] == [[5], [6, 7]]


def broken(prompts, completions, **columns):
    raise RuntimeError("no judge")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda prompts, completions, **c: [1.0], "m:f: got 1 values for 2 completions.*'p'"),
        (lambda prompts, completions, **c: [1.0, "x"], "m:f: got 'x' for prompt 'q'"),
        (lambda prompts, completions, **c: [1.0, None], "m:f: got None for prompt 'q'"),
        (lambda prompts, completions, **c: [1.0, None], "return 0 where the function does not"),
        (lambda prompts, completions, **c: "10", "m:f: got '1' for prompt 'p'"),
        (lambda prompts, completions, **c: "word", "m:f: got 4 values for 2 completions"),
        (lambda prompts, completions, **c: None, "m:f: got NoneType"),
        (lambda prompts, completions, **c: [[1], [2]], r"m:f: got \[1\] for prompt 'p'"),
        (lambda prompts, completions, **c: [1j, 0], "m:f: got 1j for prompt 'p'"),
        (lambda prompts, completions, **c: sys.exit(3), "m:f: got RuntimeError: SystemExit: 3"),
        (lambda prompts, completions, trainer_state: 0, "unexpected keyword argument 'level'"),
        (lambda completion_ids, **c: [0, 0], "missing .* 'completion_ids'"),
        (lambda prompts, completions, **c: [math.nan, 1], "m:f: got nan for prompt 'p'"),
        (lambda prompts, completions, **c: [1, math.inf], "m:f: got inf for prompt 'q'"),
        (lambda prompts, completions, **c: 1.0, "m:f: got float for prompt 'p'"),
        (broken, "m:f: got RuntimeError: no judge"),
    ],
)
def test_a_reward_function_that_goes_wrong_is_named(function, message):
    with pytest.raises(UserError, match=message):
        FunctionReward("m:f", function)(EXAMPLES, ["x", "y"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("exactly", "exact, number, math or module:function.*did you mean 'exact'"),
        ("nmber", "did you mean 'number'"),
        ("no_such_module:f", "cannot be imported.*ModuleNotFoundError"),
        ("math:no_such", "cannot be imported.*AttributeError"),
        ("math:pi", "a float.*wanted a function"),
    ],
)
def test_a_reward_that_is_not_there(name, message):
    with pytest.raises(UserError, match=message):
        reward_named(name)


def test_editing_a_reward_function_changes_the_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "t.jsonl", [{"prompt": f"{i}", "answer": "x"} for i in range(20)])
    hashes = []
    for version in (1, 2):
        name = f"my_reward_{version}"
        body = f"def f(prompts, completions, **c):\n    return [{version}] * len(prompts)\n"
        (tmp_path / f"{name}.py").write_text(body)
        hashes.append(reward_named(f"{name}:f").identity.splitlines()[-1])
        assert jsonl_task(path, reward=f"{name}:f").reward(EXAMPLES, ["", ""]) == [version] * 2
    assert hashes[0] != hashes[1]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


async def awaited(prompts, completions, **columns):
    await asyncio.sleep(0.01)
    return [float(len(c)) for c in completions]


@pytest.mark.parametrize(
    "function",
    [
        awaited,
        functools.partial(awaited),
        lambda completions, **_: np.array([1.0, 2.0], dtype=np.float32),
        lambda completions, **_: torch.tensor([1.0, 2.0]),
        lambda completions, **_: [np.int64(1), torch.tensor(2)],
        lambda completions, **_: (float(len(c)) for c in completions),
    ],
)
def test_what_a_function_may_be_and_return(function):
    assert FunctionReward("m:f", function)(EXAMPLES, ["x", "yy"]) == [1.0, 2.0]


def forever():
    while True:
        pass


@pytest.mark.parametrize("hang", [lambda: time.sleep(60), forever, lambda: asyncio.sleep(60)])
def test_a_function_that_hangs_is_left(hang):
    reward = FunctionReward("m:f", lambda completions, **_: hang(), timeout=0.2)
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"m:f: got no result within 0.2 s .*'p'.*reward-timeout"):
        reward(EXAMPLES, ["x", "y"])
    assert time.perf_counter() - start < 5


def test_a_loop_that_hung_takes_no_more_time():
    before = threading.active_count()
    with pytest.raises(UserError):
        FunctionReward("m:f", lambda **_: forever(), timeout=0.1)(EXAMPLES, ["x", "y"])
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_the_program_ends_while_a_function_hangs():
    code = (
        "import time\n"
        "from valuegrad.rewards.time_limit import TimeLimitPassed, call_within\n"
        "try:\n    call_within(0.1, lambda: time.sleep(600))\n"
        "except TimeLimitPassed:\n    print('left')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "left\n")


def test_a_function_that_keeps_time_with_signals_runs_in_the_main_thread():
    threads = []

    def with_alarm(completions, **_):
        threads.append(threading.current_thread())
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        except ValueError:
            return [0.0] * len(completions)  # hides that it could not do its work
        return [1.0] * len(completions)

    before = signal.signal
    reward = FunctionReward("m:f", with_alarm)
    for _ in range(2):
        assert reward(EXAMPLES, ["x", "y"]) == [1.0, 1.0]
    assert [t is threading.main_thread() for t in threads] == [False, True, True]
    assert signal.signal is before


def test_what_a_function_prints_stays_out_of_stdout(capsys):
    FunctionReward("m:f", lambda **_: [print("debug"), 0][1:] * 2)(EXAMPLES, ["x", "y"])
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "debug\n")


class Judge:
    def __call__(self, completions, **_):
        return [1.0] * len(completions)


def test_a_function_without_source_of_its_own_has_a_lasting_identity():
    for make in (Judge, lambda: functools.partial(awaited)):
        first, second = (FunctionReward("m:f", make()).identity for _ in range(2))
        assert first == second


def test_a_probe_shows_a_right_answer_and_none_of_two_prompts():
    seen = {}

    def reward(prompts, completions, completion_ids, **columns):
        seen.update(prompts=prompts, completions=completions, ids=completion_ids)
        return [0.0] * len(prompts)

    probe_reward(Task("t", (EXAMPLES[1],), (EXAMPLES[0],), FunctionReward("m:f", reward)))
    assert seen["prompts"] == ["p", "p", "q", "q"]
    assert seen["completions"] == ["a", "", "b", ""]
    assert [len(ids) for ids in seen["ids"]] == [1, 0, 1, 0]
    probe_reward(Task("t", (), tuple(EXAMPLES), Exact()))
    unfit = FunctionReward("own", lambda prompts, **_: [0.0] * len(prompts), binary=True)
    with pytest.raises(UserError, match="own: got 0 for the right answer 'a' of prompt 'p'"):
        probe_reward(Task("t", (), tuple(EXAMPLES), unfit))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise RuntimeError('no judge')", "got RuntimeError: no judge"),
        ("import time; time.sleep(60)", "got no result within 0.2 s"),
        ("return [1.0]", "got 1 values for 4 completions"),
        ("return ['good'] * len(prompts)", "got 'good' for prompt"),
        ("return [float('nan')] * len(prompts)", "got nan for prompt"),
        ("return [None] * len(prompts)", "got None for prompt"),
    ],
)
def test_a_bad_function_is_found_before_a_model_is_loaded(
    body, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    name = f"bad_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(f"def f(prompts, completions, **c):\n    {body}\n")
    write(tmp_path / "t.jsonl", [{"prompt": f"{i}", "answer": "x"} for i in range(20)])
    words = ["--task", "t.jsonl", "--reward", f"{name}:f", "--reward-timeout", "0.2", "--json"]
    # No such checkpoint: the reward is complained about first.
    assert run(["score", "nowhere", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"reward {name}:f: {message}" in printed.err
    assert "Traceback" not in printed.err


def test_a_function_that_fails_for_one_checkpoint_leaves_the_others(
    checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moody.py").write_text(
        "calls = []\n"
        "def f(prompts, completions, **c):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 2:\n"
        "        raise RuntimeError('judge away')\n"
        "    return [float('a' in text) for text in completions]\n"
    )
    rows = [{"prompt": f"offset {i}: '", "answer": "B" if i % 2 else "a"} for i in range(24)]
    write(tmp_path / "t.jsonl", rows)
    folders = [str(checkpoint(name)) for name in ("olmo2", "gpt2")]
    words = ["score", *folders, "--task", "t.jsonl", "--reward", "moody:f", "--out", "out"]
    assert run([*words, "--json", "--updates", "1"]) == 1
    printed = capsys.readouterr()
    assert [row["checkpoint"] for row in json.loads(printed.out)] == folders[1:]
    assert "judge away" in printed.err
    assert len(list((tmp_path / "out" / "records").glob("score-*"))) == 1
    assert run([*words, "--json", "--updates", "1"]) == 0
    assert [row["checkpoint"] for row in json.loads(capsys.readouterr().out)] == folders


def test_arithmetic_takes_other_rewards():
    task = build_task(TaskSettings(name="arithmetic", reward="number"))
    first = task.evaluation[0]
    assert task.reward([first, first], [f"is {first.answer}.", "is 999999."]) == [1.0, 0.0]
    assert [e.prompt for e in task.train] == [e.prompt for e in arithmetic().train]
    assert (Exact().binary, task.reward.binary) == (True, True)
    assert not FunctionReward("m:f", awaited).binary
