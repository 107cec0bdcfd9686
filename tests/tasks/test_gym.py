"""reasoning-gym: every question once, splits by question, and what counts as right."""

import os
import subprocess
import sys

import pytest
import reasoning_gym

from valuegrad.errors import UserError
from valuegrad.rewards.worker import Worker
from valuegrad.tasks import gym
from valuegrad.tasks.gym import gym_task
from valuegrad.tasks.settings import TaskSettings, build_task
from valuegrad.tasks.task import HELD_OUT, held_out


def questions(task, suffix="\nAnswer:"):
    train, held = ([e.prompt for e in split] for split in (task.train, task.evaluation))
    assert all(p.endswith(suffix) for p in train + held)
    return [p.removesuffix(suffix) for p in train], [p.removesuffix(suffix) for p in held]


@pytest.mark.parametrize("name", ["leg_counting", "tower_of_hanoi", "string_splitting"])
def test_every_question_counts_once_and_its_text_decides_its_split(name):
    train, held = questions(gym_task(name, prompts=10, train_prompts=24))
    assert (len(set(train)), len(set(held))) == (24, 10)
    assert not any(held_out(q, HELD_OUT) for q in train)
    assert all(held_out(q, HELD_OUT) for q in held)


def test_reasoning_gym_repeats_questions_and_leaks_between_seeds():
    # What the de-duplication and the stride between seeds are for.
    def drawn(name, seed):
        return [item["question"] for item in reasoning_gym.create_dataset(name, size=60, seed=seed)]

    assert len(set(drawn("tower_of_hanoi", 0))) < 60
    assert len(set(drawn("leg_counting", 0)) & set(drawn("leg_counting", 1))) == 59
    both = [gym_task("leg_counting", prompts=8, train_prompts=24, seed=s) for s in (0, 1)]
    first, second = ({*train, *held} for train, held in map(questions, both))
    assert not first & second


def test_right_is_the_full_score_and_nothing_less(monkeypatch):
    monkeypatch.setattr(gym, "_WORKER", Worker("reasoning_gym", cpu_seconds=1.0))
    task = gym_task("countdown", prompts=4, train_prompts=4)
    first = task.evaluation[0]
    dataset = reasoning_gym.create_dataset("countdown", size=1, seed=0)
    entry = task.reward.function.entries[first.columns["index"]]
    texts = [first.answer, f" {first.answer}\n", f"I think <answer>{first.answer}</answer>", "1+1"]
    texts += ["", "no", "9**9**9**9**9"]
    assert task.reward([first] * 7, texts) == [1, 1, 1, 0, 0, 0, 0]
    # The verifier itself gives part of the credit for anything.
    assert 0 < dataset.score_answer("1+1", entry) < 1
    lenient = gym_task("countdown", prompts=4, train_prompts=4, threshold=0.05)
    assert lenient.reward([first] * 2, ["1+1", ""]) == [1, 0]
    assert lenient.sha256 != task.sha256
    assert task.reward.binary


def test_a_verifier_that_raises_gives_0():
    task = gym_task("prime_factorization", prompts=2, train_prompts=2)
    first = task.evaluation[0]
    assert task.reward([first] * 2, ["xyzzy", first.answer]) == [0, 1]


def test_an_open_answer_is_empty_and_judged_by_its_entry():
    task = gym_task("graph_color", prompts=2, train_prompts=2)
    first = task.evaluation[0]
    entry = task.reward.function.entries[first.columns["index"]]
    colours = str(entry["metadata"]["possible_answer"])
    text = colours.replace("{", '{"').replace(": ", '": ').replace(", ", ', "')
    assert first.answer == ""
    assert task.reward([first] * 2, [text, "{}"]) == [1, 0]
    assert build_task(TaskSettings(name="gym:graph_color", prompts=2, train_prompts=2)) == task


def test_a_line_break_ends_answers_of_one_line_only():
    small = {"prompts": 2, "train_prompts": 2}
    assert gym_task("leg_counting", **small).stop == "\n"
    assert gym_task("mini_sudoku", **small).stop is None
    assert build_task(TaskSettings(name="gym:leg_counting", stop="", **small)).stop is None
    plain = TaskSettings(name="gym:leg_counting", prompt_template="{prompt}\n", **small)
    assert build_task(plain).evaluation[0].prompt.endswith("\n")


def test_every_process_makes_the_same_task():
    # These draw from sets, from a global generator, or from one generator for all items.
    names = ("word_ladder", "list_functions", "acre", "codeio")
    code = (
        "from valuegrad.tasks.gym import gym_task\n"
        f"for name in {names!r}:\n    print(gym_task(name, prompts=2, train_prompts=4).sha256)"
    )
    words, seed = [sys.executable, "-c", code], {**os.environ, "PYTHONHASHSEED": "1"}
    there = subprocess.run(words, env=seed, capture_output=True, text=True, check=True).stdout
    here = [gym_task(name, prompts=2, train_prompts=4).sha256 for name in names]
    assert there.split() == here


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("leg_countin", {}, "'gym:leg_countin'; wanted one of the 1.. data sets.*leg_counting"),
        ("composite", {}, "'gym:composite', which cannot be made.*at least one dataset"),
        ("tower_of_hanoi", {"train_prompts": 300}, "train_prompts: got 300; wanted at most"),
        ("leg_counting", {"prompts": 0}, "prompts: got 0"),
        ("leg_counting", {"threshold": 0.0}, "threshold: got 0"),
        ("leg_counting", {"prompt_template": "x"}, "without {prompt}"),
    ],
)
def test_gym_refuses(name, options, message):
    with pytest.raises(UserError, match=message):
        gym_task(name, **{"prompts": 2, "train_prompts": 2, **options})


def test_gym_without_reasoning_gym(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(UserError, match=r"pip install 'valuegrad\[gym\]'"):
        gym_task("leg_counting")
