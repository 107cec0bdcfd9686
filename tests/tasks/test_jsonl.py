"""JSONL files: what becomes of their lines, and how bad ones are named."""

import json

import pytest

from valuegrad.errors import UserError
from valuegrad.tasks.jsonl import jsonl_task


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
