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
        ("[1]\n", r"t\.jsonl:1: got a list.*without brackets"),
        ('[\n{"prompt": "a"}]\n', r"t\.jsonl:1: got a JSON array over several lines"),
        (
            '{"prompt": "a", "prompt": "b", "answer": "c"}',
            "t.jsonl:1: got the field 'prompt' twice",
        ),
        ('{"prompt": "a", "answer": "c", "x": [{"y": 1, "y": 2}]}', "t.jsonl:1: got the field 'y'"),
        ('{"prompt": "a\\ude00b", "answer": "c"}', r"jsonl:1: got 'a.ude00', .* surrogate pair"),
        ('{"prompt": "a", "answer": "\\ud800"}', r"jsonl:1: got '.ud800', .* surrogate pair"),
        ('{"prompt": "a", "answer": "c", "x": {"y": ["\\udfff"]}}', "t.jsonl:1: .*surrogate pair"),
        ('{"prompt": "a", "answer": "c", "\\udfff": 1}', "t.jsonl:1: .*surrogate pair"),
        ('{"prompt": "a\\u0000", "answer": "c"}', "t.jsonl:1: .*NUL character"),
        (
            '{"prompt": "a", "answer": ' + "7" * 5000 + "}",
            "t.jsonl:1: got JSON .*4300 digits.*text",
        ),
        ('{"prompt": "a", "answer": "c", "x": ' + "7" * 5000 + "}", "t.jsonl:1: got JSON .*digits"),
        ('{"prompt": "a", "answer": "c", "x": ' + "[" * 99_999, "t.jsonl:1: got JSON .*recursion"),
        ('{"prompt": "a", "answer": 1e999}', r"t\.jsonl:1: got an unusable field 'answer'"),
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
    answers = ["3", "-2", "0.5", '"7"', "3.10", "2.0", "1E3", "8" * 400]
    path = tmp_path / "t.jsonl"
    lines = (f'{{"prompt": "{i}", "answer": {answers[i % 8]}}}\n' for i in range(24))
    path.write_text("".join(lines))
    task = jsonl_task(path)
    texts = {e.prompt: e.answer for e in task.train + task.evaluation}
    assert [texts[f"{i}"] for i in range(8)] == [answer.strip('"') for answer in answers]


def test_whole_numbers_as_floats_are_refused_where_the_spelling_decides(tmp_path):
    rows = [{"prompt": f"{i}", "answer": float(i)} for i in range(20)]
    path = write(tmp_path / "t.jsonl", rows)
    with pytest.raises(UserError, match=r"written like '0.0'; .*write them as 0, or in quotes"):
        jsonl_task(path)
    assert jsonl_task(path, reward="number").train
    for answer in (2.5, 3, "4.0"):
        assert jsonl_task(write(path, [*rows, {"prompt": "x", "answer": answer}])).train


def test_a_file_of_windows_reads_as_any_other(tmp_path):
    rows = [{"prompt": f"{i}é", "answer": "x"} for i in range(20)]
    plain = jsonl_task(write(tmp_path / "t.jsonl", rows))
    text = (tmp_path / "t.jsonl").read_text().replace("\n", "\r\n")
    (tmp_path / "t.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert jsonl_task(tmp_path / "t.jsonl") == plain
    (tmp_path / "t.jsonl").write_bytes(text.encode() + b'{"prompt": "\xe9"}')
    with pytest.raises(UserError, match=r"t\.jsonl:21: got 'utf-8' .*convert the file"):
        jsonl_task(tmp_path / "t.jsonl")


def test_a_sample_is_of_the_whole_file_and_stays_when_lines_come(tmp_path):
    rows = [{"prompt": f"{i}", "answer": "early" if i < 200 else "late"} for i in range(400)]
    path = write(tmp_path / "t.jsonl", rows)
    whole, some = jsonl_task(path), jsonl_task(path, prompts=40)
    assert (whole.available, some.available) == (len(whole.evaluation), len(whole.evaluation))
    assert len(some.evaluation) == 40
    order = [e for e in whole.evaluation if e in some.evaluation]
    assert list(some.evaluation) == order
    # 4 standard deviations of a binomial count.
    assert abs(sum(e.answer == "early" for e in some.evaluation) - 20) < 4 * 10**0.5
    more = jsonl_task(write(path, [*rows, {"prompt": "new", "answer": "late"}]), prompts=40)
    assert sum(e not in more.evaluation for e in order) <= 1
    assert all(e in more.evaluation for e in jsonl_task(path, prompts=20).evaluation)


def test_a_function_gets_the_columns_that_trl_would_hand_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "by_column.py").write_text(
        "def f(completions, answer, final, level, **rest):\n"
        "    assert set(rest) == {'prompts', 'trainer_state', 'log_extra', 'log_metric'}, rest\n"
        "    return [float((c, a, l) == (f, f + ' in full', f == '0' or None))\n"
        "            for c, a, f, l in zip(completions, answer, final, level)]\n"
    )
    rows = [
        {"prompt": f"{i}", "answer": f"{i % 2} in full", "final": f"{i % 2}"} for i in range(40)
    ]
    for row in rows[::2]:
        row["level"] = True
    rows[0]["completion"] = "not handed over"
    path = write(tmp_path / "t.jsonl", rows)
    task = jsonl_task(path, reward="by_column:f", answer_field="final")
    examples = [e for e in task.train + task.evaluation if e.answer == "1"]
    assert task.reward(examples, ["1"] * len(examples)) == [1.0] * len(examples)
    assert task.reward(examples[:1], ["0"]) == [0.0]
    numbers = [{**row, "answer": 3, "completions": 1, "prompts": 1} for row in rows]
    read = jsonl_task(write(path, numbers), reward="number", answer_field="final")
    assert read.reward(examples, ["it is 1"] * len(examples)) == [1.0] * len(examples)
    clash = jsonl_task(path, reward="by_column:f", answer_field="final")
    with pytest.raises(UserError, match="reward by_column:f: got a field 'completions'"):
        clash.reward(clash.train, ["1"] * len(clash.train))


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
