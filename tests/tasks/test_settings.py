"""Settings of tasks: what they make, what they refuse, and the reward tried on two prompts."""

import json
import subprocess
import sys

import pytest

from valuegrad.errors import UserError
from valuegrad.rewards.exact import Exact
from valuegrad.rewards.example import Example
from valuegrad.rewards.function import FunctionReward
from valuegrad.tasks.arithmetic import arithmetic
from valuegrad.tasks.label_copy import label_copy
from valuegrad.tasks.settings import TaskSettings, build_task, probe_reward
from valuegrad.tasks.task import Task

EXAMPLES = (Example("p", "a"), Example("q", "b"))


def test_an_unknown_task_and_a_missing_file():
    with pytest.raises(UserError, match=r"got 'arithmetik'.*did you mean 'arithmetic'"):
        build_task(TaskSettings(name="arithmetik"))
    with pytest.raises(UserError, match=r"got missing\.jsonl; wanted a JSONL file"):
        build_task(TaskSettings(name="missing.jsonl"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward": "number"}, "reward: got 'number'; wanted none for label-copy"),
        ({"prompt_template": "{prompt}"}, "prompt_template: got .* wanted none for label-copy"),
        ({"name": "arithmetic", "template": "{label}"}, "template: got .* wanted none for arith"),
        ({"name": "gym:ab", "reward": "number"}, "reward: got 'number'; wanted none for gym"),
        ({"name": "gym:ab", "digits": 3}, "digits: got 3; wanted none for gym:ab"),
        ({"name": "arithmetic", "prompt_field": "q"}, "prompt_field: got 'q'; wanted none for ar"),
        ({"name": "x.jsonl", "labels": ("a",)}, "got 4; wanted none for x.jsonl"),
        ({"max_tokens": 0}, "max_tokens: got 0"),
        ({"stop": "\udc80"}, "stop: got .* half of a surrogate pair"),
        ({"labels": ("A", "\udc80")}, "labels: got .* half of a surrogate pair"),
        ({"name": "arithmetic", "reward": "numbr"}, "did you mean 'number'"),
        (
            {"name": "arithmetic", "reward": "math:pi", "reward_timeout": 0.0},
            "reward_timeout: got 0",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        build_task(TaskSettings(**{"prompts": 4, "train_prompts": 4, **options}))


def test_limits_of_completions_are_settings_of_every_task():
    assert build_task(TaskSettings(max_tokens=9, stop=";")).max_tokens == 9
    assert build_task(TaskSettings(max_tokens=9, stop=";")).stop == ";"
    assert build_task(TaskSettings(name="arithmetic")).stop == "\n"
    assert build_task(TaskSettings(name="arithmetic", stop="")).stop is None


def test_settings_make_the_task_that_its_function_makes():
    assert build_task(TaskSettings()).sha256 == label_copy().sha256
    task = build_task(TaskSettings(name="arithmetic", digits=3, seed=2, prompts=4))
    assert task == arithmetic(digits=3, seed=2, prompts=4)


def test_arithmetic_takes_other_rewards():
    task = build_task(TaskSettings(name="arithmetic", reward="number"))
    first = task.evaluation[0]
    assert task.reward([first, first], [f"is {first.answer}.", "is 999999."]) == [1.0, 0.0]
    assert [e.prompt for e in task.train] == [e.prompt for e in arithmetic().train]
    assert (Exact().binary, task.reward.binary) == (True, True)


def test_a_probe_shows_a_right_answer_and_none_of_two_prompts():
    seen = {}

    def reward(prompts, completions, completion_ids, **columns):
        seen.update(prompts=prompts, completions=completions, ids=completion_ids)
        return [0.0] * len(prompts)

    probe_reward(Task("t", EXAMPLES[1:], EXAMPLES[:1], FunctionReward("m:f", reward)))
    assert seen["prompts"] == ["p", "p", "q", "q"]
    assert seen["completions"] == ["a", "", "b", ""]
    assert [len(ids) for ids in seen["ids"]] == [1, 0, 1, 0]
    probe_reward(Task("t", (), EXAMPLES, Exact()))
    unfit = FunctionReward("own", lambda prompts, **_: [0.0] * len(prompts), binary=True)
    message = "own: got 0 for the right answer 'a' of prompt 'p'.*`answer_field`"
    with pytest.raises(UserError, match=message):
        probe_reward(Task("t", (), EXAMPLES, unfit))


def test_tasks_are_text_only():
    code = "import json, sys, valuegrad.tasks.settings; print(json.dumps(sorted(sys.modules)))"
    words = [sys.executable, "-c", code]
    loaded = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert not {"torch", "transformers", "numpy"} & set(loaded)
