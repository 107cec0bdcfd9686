"""What all tasks share: splits by text, templates, counts, and hashes that stay."""

import math
from dataclasses import replace

import pytest

from valuegrad.errors import UserError
from valuegrad.rewards.exact import Exact
from valuegrad.rewards.example import Example
from valuegrad.tasks.arithmetic import arithmetic
from valuegrad.tasks.gym import gym_task
from valuegrad.tasks.label_copy import label_copy
from valuegrad.tasks.task import apply_template, check_counts, check_task, check_template, held_out
from valuegrad.tasks.task import split as split_of

# Records are kept under these hashes: where one changes, everything is measured anew.
HASHES = {
    "label_copy": "f0d43da58e18eeee5cbe27d39d0af04c7128e6fcf873dee688103a2c537ec789",
    "arithmetic": "2a046adf04bd4f0ca2c991cbe19c5917f648dbb1cc74cf232c40589d66ecfc9a",
    # Its prompts, answers and splits.
    "word_ladder": "2733ee82ac49a6ac9baac0c0cd58064df899bd2ed33026118e4d68a4d64f94a2",
}


def test_what_existing_tasks_hash_to_stays():
    ladder = gym_task("word_ladder", prompts=3, train_prompts=8, seed=1)
    found = {
        "label_copy": label_copy().sha256,
        "arithmetic": arithmetic().sha256,
        "word_ladder": replace(ladder, reward=Exact()).sha256,
    }
    assert found == HASHES


def test_the_split_is_decided_by_the_text_alone():
    texts = [f"prompt {i}" for i in range(4000)]
    sides = [held_out(text, 0.25) for text in texts]
    assert sides == [held_out(text, 0.25) for text in texts]
    # 4 standard deviations of a binomial count.
    assert abs(sum(sides) - 1000) < 4 * math.sqrt(4000 * 0.25 * 0.75)
    assert (held_out("label = 'B'", 1.0), held_out("label = 'B'", 0.0)) == (True, False)


def test_a_split_takes_the_first_different_prompts_and_no_more_than_it_needs():
    examples = [Example(f"{i // 2}", f"{i}") for i in range(400)]
    train, evaluation = split_of(examples, 0.25)
    assert sorted(int(e.answer) for e in train + evaluation) == list(range(0, 400, 2))
    assert all(held_out(e.prompt, 0.25) for e in evaluation)
    assert not any(held_out(e.prompt, 0.25) for e in train)
    drawn = iter(examples)
    assert split_of(drawn, 0.25, 9, 3) == (train[:9], evaluation[:3])
    last = max(train[8].answer, evaluation[2].answer, key=int)
    assert next(drawn).answer == str(int(last) + 1)
    assert [len(side) for side in split_of(examples[:8], 0.25, 9, 9)] == [
        sum(int(e.prompt) < 4 for e in side) for side in (train, evaluation)
    ]


def test_templates_with_other_fields_are_refused():
    check_template("template", "Q: {prompt}", "prompt")
    check_template("template", "{{}} {name}{prompt}", "prompt", "name", "answer")
    check_template("template", None, "prompt")
    for template, message in (
        ("Q:", r"template: got 'Q:', without \{prompt\}; wanted \{prompt\} and no other field"),
        ("{prompt}{x}", r"with \['x'\]"),
        ("{prompt", "wanted a format string"),
        ("{prompt}\ud83d", "template: got .* half of a surrogate pair"),
    ):
        with pytest.raises(UserError, match=message):
            check_template("template", template, "prompt")


def test_a_template_goes_around_each_prompt():
    examples = [Example("p", "a", {"level": 1}), Example("q", "b")]
    shaped = apply_template("<{prompt}>{{}}", examples)
    assert [e.prompt for e in shaped] == ["<p>{}", "<q>{}"]
    assert [replace(e, prompt="") for e in shaped] == [replace(e, prompt="") for e in examples]
    assert apply_template(None, examples) == tuple(examples)


def test_what_is_no_task_or_no_count_is_refused():
    task = label_copy(prompts=1, train_prompts=1)
    check_task(task)
    for example in (Example("p\udc00", "a"), Example("p", "a\0")):
        with pytest.raises(UserError, match=r"task: got .*wanted text of whole characters"):
            check_task(replace(task, train=(example,)))
    with pytest.raises(UserError, match="task: got 'label-copy'; wanted a Task"):
        check_task("label-copy")
    check_counts(prompts=1, train_prompts=2)
    with pytest.raises(UserError, match="train_prompts: got 0; wanted 1 or more"):
        check_counts(prompts=1, train_prompts=0)
