"""Label copy, JSONL and rewards: what they make, and what they refuse."""

import itertools
import json
import math

import pytest

from valuegrad.errors import UserError
from valuegrad.tasks.build import TaskSettings, build_task
from valuegrad.tasks.jsonl import jsonl_task
from valuegrad.tasks.label_copy import label_copy
from valuegrad.tasks.one_token import batches
from valuegrad.tasks.rewards import FunctionReward, reward_named
from valuegrad.tasks.task import Example, held_out


def test_label_copy_is_deterministic_varied_and_split():
    task, again = label_copy(), label_copy()
    assert task == again
    assert task.sha256 == again.sha256 != label_copy(seed=1).sha256
    train, held = ({e.prompt for e in split} for split in (task.train, task.evaluation))
    assert len(held) == 256
    assert len(train) == 1024
    assert not train & held
    for example in task.evaluation:
        assert f"'{example.answer}'" in example.prompt
    counts = [sum(e.answer == label for e in task.evaluation) for label in "ABCD"]
    assert sum(counts) == 256
    assert min(counts) > 256 / 8


def test_the_split_is_decided_by_the_text_alone():
    texts = [f"prompt {i}" for i in range(4000)]
    sides = [held_out(text, 0.25) for text in texts]
    assert sides == [held_out(text, 0.25) for text in texts]
    # 4 standard deviations of a binomial count.
    assert abs(sum(sides) - 1000) < 4 * math.sqrt(4000 * 0.25 * 0.75)


def test_any_block_of_label_copy_holds_every_template_with_every_label():
    task = label_copy(prompts=40, train_prompts=40)
    for split in (task.train, task.evaluation):
        for block in (split[:16], split[16:32]):
            cells = {(_template(e.prompt), e.answer) for e in block}
            assert cells == set(itertools.product(range(4), "ABCD"))
    assert len(label_copy(prompts=1, train_prompts=600).evaluation) == 1


def _template(prompt):
    marks = ("': '", "assert ", "self.", " = '")
    return next(i for i, mark in enumerate(marks) if mark in prompt)


def test_a_template_of_ones_own():
    task = label_copy(prompts=8, train_prompts=8, template="{before}{name}={label};{answer}=")
    assert all("=" in e.prompt for e in task.evaluation)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "x"}, "without {label}"),
        ({"template": "{label} {colour}"}, "colour"),
        ({"template": "{label"}, "format string"),
        ({"template": "{label}="}, "made only . (held-out|training) prompts"),
        ({"labels": ("A",)}, "2 different labels"),
        ({"prompts": 0}, "prompts: got 0"),
    ],
)
def test_label_copy_refuses(options, message):
    with pytest.raises(UserError, match=message):
        label_copy(**options)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_jsonl_keeps_columns_and_splits_by_text(tmp_path):
    rows = [{"q": f"{i}?", "a": "x", "level": i} for i in range(40)]
    path = write(tmp_path / "t.jsonl", [*rows, rows[0]])
    task = jsonl_task(path, prompt_field="q", answer_field="a")
    assert len(task.train) + len(task.evaluation) == 40
    assert {e.columns["level"] for e in task.train + task.evaluation} == set(range(40))
    shuffled = jsonl_task(write(path, rows[::-1]), prompt_field="q", answer_field="a")
    assert {e.prompt for e in shuffled.train} == {e.prompt for e in task.train}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "a", "answer": "b"}\n\n', r"t\.jsonl:2: got an empty line"),
        ('{"prompt": "a", "answer": "b"}\n{"pro', r"t\.jsonl:2: got malformed JSON"),
        ("[1]\n", r"t\.jsonl:1: got a list"),
        ('{"prompt": "a"}\n', r"t\.jsonl:1: got no field 'answer'.*it has: prompt"),
        ('{"prompt": "a", "answer": 3}\n', r"t\.jsonl:1: got an unusable field 'answer'"),
        ('{"prompt": "a", "answer": "b"}\n', "1 prompts, none of them"),
        ("", "0 prompts"),
    ],
)
def test_jsonl_names_file_and_line(tmp_path, text, message):
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        jsonl_task(tmp_path / "t.jsonl")


def test_an_unknown_task_and_a_missing_file():
    for name in ("arithmetik", "missing.jsonl"):
        with pytest.raises(UserError, match="label-copy or a JSONL file"):
            build_task(TaskSettings(name=name))


EXAMPLES = [Example("p", "a", {"level": 1}), Example("q", "b", {"level": 2})]


def test_a_reward_function_gets_what_trl_would_give_it():
    seen = {}

    def reward(prompts, completions, **columns):
        seen.update(prompts=prompts, completions=completions, **columns)
        return [True, 2]

    assert FunctionReward("m:f", reward)(EXAMPLES, ["x", "y"]) == [1.0, 2.0]
    assert seen == {
        "prompts": ["p", "q"],
        "completions": ["x", "y"],
        "level": [1, 2],
        "answer": ["a", "b"],
    }


def broken(prompts, completions, **columns):
    raise RuntimeError("no judge")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda prompts, completions, **c: [1.0], "m:f: got 1 values for 2 completions.*'p'"),
        (lambda prompts, completions, **c: [1.0, "x"], "m:f: got 'x' for prompt 'q'"),
        (lambda prompts, completions, **c: [1.0, None], "m:f: got None for prompt 'q'"),
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
        ("exactly", "exact or module:function"),
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


def test_batches_hold_every_row_once_and_stay_within_the_tokens():
    lengths = [5, 3, 9, 1, 7, 7, 2, 40]
    cut = batches(lengths, tokens=14)
    assert sorted(row for batch in cut for row in batch) == list(range(8))
    for batch in cut:
        assert len(batch) * max(lengths[row] for row in batch) <= 14 or len(batch) == 1
