"""Which engine runs a budget, and what is refused before it starts."""

import dataclasses
import sys

import pytest

from valuegrad.budget import Budget
from valuegrad.errors import UserError
from valuegrad.tasks.arithmetic import arithmetic
from valuegrad.training.train import train

SMALL = Budget(learning_rate=3e-3, updates=(1,), prompts_per_update=2, group_size=2)
SUMS = arithmetic(prompts=2, train_prompts=4, digits=1)


def test_the_engine_follows_the_answers(policy, task):
    start = policy("gpt2", "float32")
    assert train(start, task("gpt2"), budget=SMALL).engine == "one_token"
    assert train(start, SUMS, budget=SMALL).engine == "trl"
    limited = dataclasses.replace(task("gpt2", "graded"), max_tokens=1)
    assert train(start, limited, budget=SMALL).engine == "one_token"


@pytest.mark.parametrize(
    "settings", [{"engine": "trl"}, {"lora_rank": 2}, {"lora_rank": 2, "engine": "trl"}]
)
def test_trl_runs_one_token_answers_where_it_is_asked_to_or_lora_needs_it(policy, task, settings):
    budget = dataclasses.replace(SMALL, **settings)
    assert train(policy("llama", "float32"), task("llama"), budget=budget).engine == "trl"


def test_updates_are_shorthand_for_the_budgets(policy, task):
    found = train(policy("gpt2", "float32"), task("gpt2"), (2, 3), budget=SMALL)
    assert found.budget == dataclasses.replace(SMALL, updates=(2, 3))
    assert len(found.rewards_after) == 2


@pytest.mark.parametrize(
    ("sums", "settings", "message"),
    [
        (
            True,
            {"engine": "one_token"},
            r"engine: got one_token for arithmetic; wanted auto or trl",
        ),
        (True, {"beta": 0.1}, r"kl: got exact; wanted k3 with the engine trl.*Fix: pass k3"),
        (False, {"engine": "one_token", "lora_rank": 4}, r"engine: got one_token with LoRA"),
    ],
)
def test_refuses(policy, task, sums, settings, message):
    budget = dataclasses.replace(SMALL, **settings)
    with pytest.raises(UserError, match=message):
        train(policy("gpt2", "float32"), SUMS if sums else task("gpt2"), budget=budget)


def test_refuses_a_name_in_the_place_of_a_task(policy, unchecked):
    with pytest.raises(UserError, match="task: got 'arithmetic'; wanted a Task"):
        train(policy("gpt2", "float32"), "arithmetic")


@pytest.mark.parametrize(
    ("missing", "settings", "message"),
    [
        ("trl", {}, r"trl without the package trl.*pip install 'valuegrad\[trl\]'"),
        ("peft", {"lora_rank": 2}, r"lora_rank: got 2.*pip install 'valuegrad\[lora\]'"),
    ],
)
def test_a_missing_package_is_named(policy, monkeypatch, missing, settings, message):
    if missing == "trl":
        monkeypatch.delitem(sys.modules, "valuegrad.training.grpo_trl", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=message):
        train(policy("gpt2", "float32"), SUMS, budget=dataclasses.replace(SMALL, **settings))
