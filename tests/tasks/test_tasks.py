"""Label copy, JSONL and settings: what they make, and what they refuse."""

import itertools
import json
import math

import pytest

from valuegrad.errors import UserError
from valuegrad.tasks.jsonl import jsonl_task
from valuegrad.tasks.label_copy import label_copy
from valuegrad.tasks.settings import TaskSettings, build_task
from valuegrad.tasks.task import held_out


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
        ('{"prompt": 3, "answer": "b"}\n', r"t\.jsonl:1: got an unusable field 'prompt'"),
        ('{"prompt": "a", "answer": true}\n', r"t\.jsonl:1: got an unusable field 'answer'"),
        ('{"prompt": "a", "answer": NaN}\n', r"t\.jsonl:1: got an unusable field 'answer'"),
        ('{"prompt": "a", "answer": "b"}\n', "1 different prompts, none of them"),
        ("", "0 different prompts"),
    ],
)
def test_jsonl_names_file_and_line(tmp_path, text, message):
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        jsonl_task(tmp_path / "t.jsonl")


def test_an_answer_may_be_a_number(tmp_path):
    answers = [3, -2, 0.5, "7"]
    rows = [{"prompt": f"{i}", "answer": answers[i % 4]} for i in range(20)]
    task = jsonl_task(write(tmp_path / "t.jsonl", rows))
    texts = {e.prompt: e.answer for e in task.train + task.evaluation}
    assert [texts[f"{i}"] for i in range(4)] == ["3", "-2", "0.5", "7"]


def test_a_prompt_template_moves_no_prompt_to_the_other_split(tmp_path):
    path = write(tmp_path / "t.jsonl", [{"prompt": f"{i}", "answer": "x"} for i in range(40)])
    plain = jsonl_task(path)
    shaped = jsonl_task(path, prompt_template="Q: {prompt}\nA:")
    for before, after in ((plain.train, shaped.train), (plain.evaluation, shaped.evaluation)):
        assert [f"Q: {e.prompt}\nA:" for e in before] == [e.prompt for e in after]
    for template in ("no field", "{prompt} {answer}", "{prompt"):
        with pytest.raises(UserError, match="prompt_template: got"):
            jsonl_task(path, prompt_template=template)


@pytest.mark.parametrize(
    ("reward", "message"),
    [("number", r"t\.jsonl:7: got the answer 'blue'.*a number"), ("math", r"t\.jsonl:7: .*reads")],
)
def test_an_answer_that_the_reward_cannot_read_is_named(tmp_path, reward, message):
    rows = [{"prompt": f"{i}", "answer": "blue" if i == 6 else "1"} for i in range(20)]
    with pytest.raises(UserError, match=message):
        jsonl_task(write(tmp_path / "t.jsonl", rows), reward=reward)


def test_a_function_gets_the_fields_of_a_row_by_their_own_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "by_field.py").write_text(
        "def f(completions, solution, question, **_):\n"
        "    return [float(c == s + q[0]) for c, s, q in zip(completions, solution, question)]\n"
    )
    rows = [{"question": f"{i}?", "solution": "x"} for i in range(20)]
    names = {"prompt_field": "question", "answer_field": "solution"}
    path = write(tmp_path / "t.jsonl", rows)
    task = jsonl_task(path, reward="by_field:f", **names)
    first = task.evaluation[0]
    assert task.reward([first, first], ["x" + first.prompt[0], "x"]) == [1.0, 0.0]
    assert all(not e.columns for e in jsonl_task(path, **names).train)


def test_what_existing_tasks_hash_to_stays():
    # Records are kept under these hashes: a change here measures everything anew.
    assert label_copy().sha256.startswith("f0d43da58e18eeee")
    task = build_task(TaskSettings())
    assert task.sha256 == label_copy().sha256


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
