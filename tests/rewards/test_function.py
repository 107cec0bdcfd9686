"""Rewards: what TRL's functions get and may return, and what is done about those that fail."""

import asyncio
import functools
import math
import sys

import numpy as np
import pytest
import torch

from valuegrad.errors import UserError
from valuegrad.rewards.example import Example
from valuegrad.rewards.function import FunctionReward

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
    raise RuntimeError("no grader")


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
        (lambda prompts, completions, **c: {0: 1.0, 1: 0.0}, "m:f: got dict for prompt 'p'"),
        (lambda prompts, completions, **c: {0.5, 1.0}, "m:f: got set for prompt 'p'"),
        (lambda prompts, completions, **c: [1j, 0], "m:f: got 1j for prompt 'p'"),
        (lambda prompts, completions, **c: sys.exit(3), "m:f: got SystemExit: 3"),
        (lambda prompts, completions, trainer_state: 0, "unexpected keyword argument 'level'"),
        (lambda completion_ids, **c: [0, 0], "missing .* 'completion_ids'"),
        (lambda prompts, completions, **c: [math.nan, 1], "m:f: got nan for prompt 'p'"),
        (lambda prompts, completions, **c: [1, math.inf], "m:f: got inf for prompt 'q'"),
        (lambda prompts, completions, **c: [1, -1e300], r"m:f: got -1e\+300 for prompt 'q'"),
        (lambda prompts, completions, **c: [1e16, 0], "wanted a finite number, at most 1e.15"),
        (lambda prompts, completions, **c: [10**5000, 0], "m:f: got an integer of 16610 bits"),
        (lambda prompts, completions, **c: 1.0, "m:f: got float for prompt 'p'"),
        (broken, r"m:f: got RuntimeError: no grader at test_function.py:\d+ \(first prompt 'p'"),
        (lambda **_: (1 / 0 for _ in "ab"), "m:f: got ZeroDivisionError"),
    ],
)
def test_a_reward_function_that_goes_wrong_is_named(function, message):
    with pytest.raises(UserError, match=message):
        FunctionReward("m:f", function)(EXAMPLES, ["x", "y"])


def test_a_column_keeps_its_name_and_one_of_trls_is_refused():
    seen = {}

    def reward(completions, **columns):
        seen.update(columns)
        return [1] * len(completions)

    own = [Example("p", "a", {"answer": 5, "completion": "c"}), Example("q", "b", {"answer": None})]
    FunctionReward("m:f", reward)(own, ["x", "y"])
    assert (seen["answer"], seen["completion"]) == ([5, None], ["c", None])
    for name in ("prompts", "completions", "completion_ids", "trainer_state", "log_metric"):
        with pytest.raises(UserError, match=f"m:f: got a field '{name}'; .*rename the field"):
            FunctionReward("m:f", reward)([Example("p", "a", {name: 1})], ["x"])


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


def test_an_async_function_works_where_a_loop_runs_already():
    async def notebook():
        return FunctionReward("m:f", awaited)(EXAMPLES, ["x", "yy"])

    assert asyncio.run(notebook()) == [1.0, 2.0]


def test_what_a_function_prints_stays_out_of_stdout(capsys):
    FunctionReward("m:f", lambda **_: (print("debug", i) or 0 for i in "ab"))(EXAMPLES, ["x", "y"])
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "debug a\ndebug b\n")


class Grader:
    def __call__(self, completions, **_):
        return [1.0] * len(completions)


def test_a_function_without_source_of_its_own_has_a_lasting_identity():
    for make in (Grader, lambda: functools.partial(awaited)):
        first, second = (FunctionReward("m:f", make()).identity for _ in range(2))
        assert first == second
