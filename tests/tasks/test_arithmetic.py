"""Arithmetic: right answers, splits that never meet, and problems that pretraining may draw."""

import collections
import itertools
import math
import operator
import random

import pytest

from valuegrad.errors import UserError
from valuegrad.tasks.arithmetic import arithmetic, training_problems
from valuegrad.tasks.task import HELD_OUT

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def operands(prompt, operation):
    assert prompt.endswith("=")
    left, right = prompt[:-1].split(operation)
    assert left == str(int(left))
    assert right == str(int(right))
    return int(left), int(right)


@pytest.mark.parametrize("operation", "+-*")
@pytest.mark.parametrize("digits", [2, 3, 7])
def test_problems_are_right_different_and_split(operation, digits):
    task = arithmetic(operation=operation, digits=digits)
    for example in task.train + task.evaluation:
        left, right = operands(example.prompt, operation)
        assert max(left, right) < 10**digits
        assert example.answer == str(OPERATIONS[operation](left, right))
    train, held = ({e.prompt for e in split} for split in (task.train, task.evaluation))
    assert (len(train), len(held)) == (1024, 256)
    assert not train & held
    assert (task.stop, task.reward.binary) == ("\n", True)


def test_the_same_arguments_give_the_same_task_and_more_prompts_keep_the_first():
    assert arithmetic().sha256 == arithmetic().sha256 != arithmetic(seed=1).sha256
    few, many = arithmetic(prompts=8, train_prompts=8), arithmetic(prompts=64, train_prompts=64)
    assert few.evaluation == many.evaluation[:8]
    assert few.train == many.train[:8]
    first = arithmetic().evaluation[0]
    shaped = arithmetic(prompt_template="1+2=3\n{prompt}").evaluation[0]
    assert (shaped.prompt, shaped.answer) == (f"1+2=3\n{first.prompt}", first.answer)


@pytest.mark.parametrize("operation", "+-*")
def test_pretraining_draws_no_problem_of_any_held_out_split(operation):
    drawn = training_problems(random.Random(0), operation=operation, digits=2)
    seen = {e.prompt: e.answer for e in itertools.islice(drawn, 60_000)}
    held = {
        e.prompt
        for seed in range(20)
        for e in arithmetic(operation=operation, seed=seed, train_prompts=1).evaluation
    }
    assert not held & set(seen)
    # All 10,000 problems are on one side or the other: 60,000 draws leave out e^-8 of 7,500.
    space = 10_000
    assert abs(len(seen) - (1 - HELD_OUT) * space) < 5 * math.sqrt(2 * space * 0.25 * 0.75)
    for prompt in itertools.islice(seen, 100):
        assert seen[prompt] == str(OPERATIONS[operation](*operands(prompt, operation)))


@pytest.mark.parametrize("operation", "+*")
def test_a_problem_and_its_mirror_are_on_one_side(operation):
    task = arithmetic(operation=operation, digits=2, train_prompts=4000, prompts=1500)
    train, held = (
        {tuple(sorted(operands(e.prompt, operation))) for e in split}
        for split in (task.train, task.evaluation)
    )
    assert not train & held


def test_the_operands_are_uniform():
    draws = itertools.islice(training_problems(random.Random(1), operation="-", digits=1), 20_000)
    pairs = collections.Counter(operands(e.prompt, "-") for e in draws)
    # About 75 of the 100 pairs are on this side; 5 standard deviations of a count.
    mean = 20_000 / len(pairs)
    assert 60 < len(pairs) < 90
    assert all(abs(count - mean) < 5 * math.sqrt(mean) for count in pairs.values())
    assert any(left < right for left, right in pairs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"digits": 1}, "train_prompts: got 1024; wanted at most [678].: 1-digit '.'"),
        ({"digits": 1, "train_prompts": 8}, "prompts: got 256; wanted at most [123].: 1-digit '.'"),
        ({"digits": 0}, "digits: got 0; wanted 1 to 100"),
        ({"digits": 101}, "digits: got 101"),
        ({"operation": "/"}, r"operation: got '/'; wanted one of \+ - \*"),
        ({"prompts": 0}, "prompts: got 0"),
        ({"train_prompts": -1}, "train_prompts: got -1"),
        ({"prompt_template": "x"}, "without {prompt}"),
    ],
)
def test_arithmetic_refuses(options, message):
    with pytest.raises(UserError, match=message):
        arithmetic(**options)


def test_pretraining_is_refused_as_the_task_is():
    with pytest.raises(UserError, match="operation"):
        next(training_problems(random.Random(0), operation="^"))
