"""The reward `math`: math-verify, in a process that a completion cannot keep."""

import importlib.util
import json

import pytest

from valuegrad.errors import UserError
from valuegrad.rewards import mathematics
from valuegrad.rewards.mathematics import readable
from valuegrad.rewards.named import reward_named
from valuegrad.rewards.worker import Worker
from valuegrad.tasks.jsonl import jsonl_task


@pytest.mark.parametrize(
    ("completion", "answer", "reward"),
    [
        ("so it is $\\frac{1}{2}$.", "0.5", 1),
        ("The answer is 1/2.", "\\frac{1}{2}", 1),
        ("\\frac12", "steps\n#### 1/2", 1),
        ("thus \\boxed{3\\sqrt{2}}", "3\\sqrt{2}", 1),
        ("3\\sqrt{2}", "$\\sqrt{18}$", 1),
        ("(1, 2)", "(1,2)", 1),
        ("x=5", "x=5", 1),
        ("\\boxed{5}", "x=5", 1),
        ("\\boxed{\\text{Monday}}", "\\text{Monday}", 1),
        ("50\\%", "50\\%", 1),
        ("that is 12", "12", 1),
        ("that is 13", "12", 0),
        ("$\\frac{1}{3}$", "0.5", 0),
        ("(2,1)", "(1,2)", 0),
        ("", "12", 0),
        ("no idea", "12", 0),
        ("$\\frac{1}{$", "12", 0),
        # The last box, and those joined to it.
        ("not \\boxed{7} but \\boxed{8}", "8", 1),
        ("not \\boxed{7} but \\boxed{8}", "7", 0),
        ("\\boxed{7} and \\boxed{8}", "7,8", 1),
        ("$\\boxed{\\frac{1}{8}}$ is it, \\boxed{", "0.125", 1),
        ("\\boxed{12.5}\\%", "12.5\\%", 1),
        # As near as their own size asks for, inside other expressions too.
        ("$3^{-80}$", "3^{-81}", 0),
        ("$3^{-80}$", "\\frac{1}{3^{80}}", 1),
        ("$\\frac{x}{300!}$", "\\frac{x}{301!}", 0),
        ("$(2, 3^{-80})$", "(2, 3^{-81})", 0),
        ("$[0, 3^{-80}]$", "[0, 3^{-81}]", 0),
        ("$e^{-90}$", "e^{-91}", 0),
        ("0.00000003", "0.00000004", 0),
        ("0.6666667", "\\frac{2}{3}", 1),
        ("$\\sqrt{7+2\\sqrt{10}}$", "\\sqrt{2}+\\sqrt{5}", 1),
        # Lists in order, sets in none.
        ("3,-1", "-1,3", 0),
        ("(-1,3)", "-1,3", 1),
        ("5,5", "5", 0),
        ("\\{3,-1\\}", "\\{-1,3\\}", 1),
        ("$x=3$ or $x=-1$", "x=-1, x=3", 1),
        ("$-3, 3$", "\\pm 3", 1),
        # Matrices on several lines, numbers of a base.
        ("\\begin{bmatrix}3\\\\4\\end{bmatrix}", "\\begin{bmatrix}3\\\\\n4\\end{bmatrix}", 1),
        ("\\begin{bmatrix}3\\\\5\\end{bmatrix}", "\\begin{bmatrix}3\\\\\n4\\end{bmatrix}", 0),
        ("\\boxed{110_2}", "110", 0),
        ("\\boxed{110_2}", "6", 1),
        ("\\boxed{x_2}", "x_2", 1),
    ],
)
def test_completions_are_compared_by_value(completion, answer, reward):
    assert mathematics.mathematics([completion], [answer]) == [reward]


def test_answers_that_are_no_mathematics():
    assert [readable(a) for a in ("12", "\\pi", "#### 3", "", "hello there")] == [1, 1, 1, 0, 0]


def test_a_power_tower_is_wrong_and_the_others_earn_what_they_are_worth(monkeypatch):
    worker = Worker("math_verify", cpu_seconds=1.0)
    monkeypatch.setattr(mathematics, "_WORKER", worker)
    texts = ["$5$", "$9^{9^{9^9}}$", "$5$"]
    assert mathematics.mathematics(texts, ["5"] * 3) == [1.0, 0.0, 1.0]
    worker.close()


def test_math_of_a_file(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = [{"problem": f"{i}/2?", "solution": f"\\frac{{{i}}}{{2}}"} for i in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = jsonl_task(path, prompt_field="problem", answer_field="solution", reward="math")
    examples = task.train + task.evaluation
    values = [int(e.prompt.split("/")[0]) / 2 for e in examples]
    assert task.reward(examples, [f"It is {v:g}." for v in values]) == [1.0] * 20
    assert task.reward(examples, [f"It is {v + 1:g}." for v in values]) == [0.0] * 20
    assert task.reward.binary


def test_math_without_math_verify(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'valuegrad\[math\]'"):
        reward_named("math")
