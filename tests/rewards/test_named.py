"""Rewards by name: functions in a process of their own, under a limit, and what fails there."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest

from valuegrad.cli.app import run
from valuegrad.errors import UserError
from valuegrad.rewards.exact import Exact
from valuegrad.rewards.example import Example
from valuegrad.rewards.function import FunctionReward
from valuegrad.rewards.named import ImportedReward, reward_named
from valuegrad.tasks.jsonl import jsonl_task

EXAMPLES = [Example("p", "a", {"level": 1}), Example("q", "b", {"level": 2})]


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """Writes a module into the working folder, under a name that no other test has."""
    monkeypatch.chdir(tmp_path)
    name = f"of_{abs(hash(request.node.nodeid))}"

    def write(body, version=""):
        (tmp_path / f"{name}{version}.py").write_text(body)
        return f"{name}{version}"

    return write


def score(body, timeout=60.0, examples=EXAMPLES, ids=None, *, write):
    return reward_named(f"{write(body)}:f", timeout)(examples, ["x", "yy"], ids)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("exactly", "exact, number, math or module:function.*did you mean 'exact'"),
        ("nmber", "did you mean 'number'"),
        ("no_such_module:f", "cannot be imported.*ModuleNotFoundError"),
        ("math:no_such", "cannot be imported.*AttributeError"),
        ("math:pi", "a float, not a function.*wanted a function"),
    ],
)
def test_a_reward_that_is_not_there(name, message):
    with pytest.raises(UserError, match=message):
        reward_named(name)


def test_a_module_that_exits_is_none(module):
    with pytest.raises(UserError, match=r"cannot be imported \(SystemExit: 3\)"):
        score("raise SystemExit(3)", write=module)


def test_rewards_of_valuegrad_keep_their_identity():
    # Records are kept under it. Whoever changes what these rewards give changes their version.
    assert reward_named("exact") == Exact()
    assert reward_named("number").identity.startswith("number\nbcbbef7ddfd40741")
    identity = reward_named("math").identity
    assert identity.startswith("math\ned3f4f729f3a7193")
    assert f"math-verify {version('math-verify')}" in identity


@pytest.mark.parametrize(
    "body",
    [
        "def f(completions, **_):\n    return [float(len(c)) for c in completions]",
        "import asyncio\nasync def f(completions, **_):\n"
        "    await asyncio.sleep(0)\n    return [float(len(c)) for c in completions]",
        "import torch\ndef f(completions, **_):\n    return torch.tensor([1, 2])",
        "def f(completions, **_):\n    yield from (len(c) for c in completions)",
        "class Length:\n    def __call__(self, completions, **_):\n"
        "        return map(len, completions)\nf = Length()",
    ],
    ids=["function", "async", "torch", "generator", "object"],
)
def test_what_a_function_may_be_and_return(module, body):
    assert score(body, write=module) == [1.0, 2.0]


def test_a_function_gets_what_trl_would_give_it(module):
    body = """
def f(prompts, completions, answer, level, trainer_state, log_extra, log_metric, completion_ids):
    log_extra("name", completions)
    log_metric("name", 1.0)
    assert (prompts, completions, answer) == (["p", "q"], ["x", "yy"], ["a", "b"])
    assert (level, trainer_state, completion_ids) == ([1, 2], None, [[5], [6, 7]])
    return [1, 2]
"""
    assert score(body, ids=[(5,), (6, 7)], write=module) == [1.0, 2.0]


def test_a_function_keeps_its_state_the_main_thread_and_the_signals(module):
    body = """
import signal, sys, threading
calls = []
def f(completions, **_):
    assert threading.current_thread() is threading.main_thread()
    assert "torch" not in sys.modules or "transformers" not in sys.modules
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    calls.append(1)
    return [len(calls)] * len(completions)
"""
    assert score(body, write=module) == [1.0, 1.0]
    assert score(body, write=module) == [2.0, 2.0]


def test_what_a_function_prints_stays_out_of_stdout(module, tmp_path):
    name = module(
        "import os, sys\n"
        "def f(completions, **_):\n"
        "    print('printed')\n"
        "    os.system('echo echoed')\n"
        "    return [float('torch' in sys.modules)] * len(completions)\n"
    )
    program = (
        "from valuegrad.rewards.example import Example\n"
        "from valuegrad.rewards.named import reward_named\n"
        f"print(reward_named('{name}:f')([Example('p', 'a')], ['x']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == "[0.0]\n"
    assert "printed\n" in done.stderr
    assert "echoed\n" in done.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("raise RuntimeError('no grader')", r"RuntimeError: no grader at of_\d+\.py:3 .*'p'"),
        ("raise type('Odd', (Exception,), {})(lambda: 0)", r"Odd: <function .* at of_\d+\.py:3"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import os; os._exit(3)", r"the end of its process \(code (3|None)\) .*'p'"),
        ("return [1.0]", "1 values for 2 completions.*'p'"),
        ("return [1.0, object()]", "<object object .* for prompt 'q'"),
    ],
)
def test_a_function_that_goes_wrong_is_named(module, line, message):
    body = f"import math\ndef f(completions, **_):\n    {line}\n"
    with pytest.raises(UserError, match=rf"reward of_\d+:f: got {message}"):
        score(body, write=module)


@pytest.mark.parametrize(
    "hang",
    [
        "while True: pass",
        "import time; time.sleep(1e6)",
        "import asyncio; return asyncio.sleep(1e6)",
    ],
)
def test_a_function_that_hangs_is_ended(module, hang):
    body = "import os\ndef f(completions, prompts, **_):\n"
    body += f"    if prompts[0] == 'p':\n        {hang}\n"
    body += "    return [float(os.getpid())] * 2\n"
    name = f"{module(body)}:f"
    (pid, _) = reward_named(name)(EXAMPLES[::-1], ["x", "y"])
    with pytest.raises(UserError, match=r"got no result within 0.2 s .*'p'.*`reward_timeout`"):
        reward_named(name, 0.2)(EXAMPLES, ["x", "y"])
    (other, _) = reward_named(name)(EXAMPLES[::-1], ["x", "y"])
    assert other != pid


def test_the_time_of_an_import_does_not_count(module):
    body = "import time\ntime.sleep(0.5)\ndef f(completions, **_):\n    return [1, 1]"
    quick = "import os\ndef f(**_):\n    os._exit(1)"
    name, ending = f"{module(body)}:f", f"{module(quick, 'b')}:f"
    reward = reward_named(name, 0.4)
    with pytest.raises(UserError, match="the end of its process"):
        reward_named(ending)(EXAMPLES, ["x", "y"])
    assert reward(EXAMPLES, ["x", "y"]) == [1.0, 1.0]  # in a new process


@pytest.mark.parametrize("value", ["lambda: 0", "Own()"])
def test_a_column_that_the_process_cannot_have_is_named(module, value):
    class Own:
        pass

    column = eval(value, {"Own": Own})
    body = "def f(completions, **_):\n    return [1, 1]"
    examples = [Example("p", "a", {"x": column})] * 2
    with pytest.raises(UserError, match=r"another process can have.*make a FunctionReward"):
        score(body, examples=examples, write=module)


def test_editing_a_function_changes_the_task_and_stops_one_that_is_in_use(module, tmp_path):
    path = write(tmp_path / "t.jsonl", [{"prompt": f"{i}", "answer": "x"} for i in range(20)])
    body = "import os\ndef f(completions, prompts, **_):\n"
    body += "    return [os._exit(1) if p == 'p' else {} for p in prompts]\n"
    rewards = [jsonl_task(path, reward=f"{module(body.format(n), n)}:f").reward for n in (1, 2)]
    assert [r([EXAMPLES[1]], ["x"]) for r in rewards] == [[1.0], [2.0]]
    assert rewards[0].identity.splitlines()[1] != rewards[1].identity.splitlines()[1]
    with pytest.raises(UserError, match="the end of its process"):
        rewards[0](EXAMPLES, ["x", "y"])
    module(body.format(30), 1)
    with pytest.raises(UserError, match="got an edited function"):
        rewards[0]([EXAMPLES[1]], ["x"])
    assert rewards[1]([EXAMPLES[1]], ["x"]) == [2.0]


def test_a_function_that_only_this_process_has_runs_here(monkeypatch):
    own = type(sys)("only_here")
    own.f = lambda completions, **_: [1.0] * len(completions)
    monkeypatch.setitem(sys.modules, "only_here", own)
    reward = reward_named("only_here:f")
    assert isinstance(reward, FunctionReward)
    assert reward(EXAMPLES, ["x", "y"]) == [1.0, 1.0]
    assert isinstance(reward_named("math:fsum"), ImportedReward)


def test_a_script_that_names_a_function_of_its_own_is_refused(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from valuegrad.rewards.example import Example\n"
        "from valuegrad.rewards.named import reward_named\n"
        "def f(completions, **_):\n    return [1.0]\n"
        "print(reward_named('__main__:f')([Example('p', 'a')], ['x']))\n"
        "reward_named('script:f')\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "cannot be imported (RunError: the process of a reward cannot start" in done.stderr
    assert done.stdout == "[1.0]\n"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("line", "limit", "message"),
    [
        ("raise RuntimeError('no grader')", "60", "got RuntimeError: no grader"),
        ("import time; time.sleep(1e6)", "0.2", "got no result within 0.2 s"),
        ("return [1.0]", "60", "got 1 values for 4 completions"),
        ("return ['good'] * len(prompts)", "60", "got 'good' for prompt"),
        ("return [float('nan')] * len(prompts)", "60", "got nan for prompt"),
        ("return [None] * len(prompts)", "60", "got None for prompt"),
    ],
)
def test_a_bad_function_is_found_before_a_model_is_loaded(
    module, line, limit, message, tmp_path, capsys
):
    name = module(f"def f(prompts, completions, **c):\n    {line}\n")
    write(tmp_path / "t.jsonl", [{"prompt": f"{i}", "answer": "x"} for i in range(20)])
    words = ["--task", "t.jsonl", "--reward", f"{name}:f", "--reward-timeout", limit, "--json"]
    # No such checkpoint: the reward is complained about first.
    assert run(["score", "nowhere", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"reward {name}:f: {message}" in printed.err
    assert "Traceback" not in printed.err


def test_a_function_that_fails_for_one_checkpoint_leaves_the_others(
    module, checkpoint, tmp_path, capsys
):
    name = module(
        "calls = []\n"
        "def f(prompts, completions, **c):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 2:\n"
        "        raise RuntimeError('grader away')\n"
        "    return [float('a' in text) for text in completions]\n"
    )
    rows = [{"prompt": f"offset {i}: '", "answer": "B" if i % 2 else "a"} for i in range(24)]
    write(tmp_path / "t.jsonl", rows)
    folders = [str(checkpoint(name)) for name in ("olmo2", "gpt2")]
    words = ["score", *folders, "--task", "t.jsonl", "--reward", f"{name}:f", "--out", "out"]
    assert run([*words, "--json", "--updates", "1"]) == 1
    printed = capsys.readouterr()
    assert [row["checkpoint"] for row in json.loads(printed.out)] == folders[1:]
    assert "grader away" in printed.err
    assert len(list((tmp_path / "out" / "records").glob("score-*"))) == 1
    assert run([*words, "--json", "--updates", "1"]) == 0
    assert [row["checkpoint"] for row in json.loads(capsys.readouterr().out)] == folders
