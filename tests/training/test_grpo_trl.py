"""GRPO through TRL: the own loop's gradient and rewards, prompts, stops, seeds and errors."""

import collections
import dataclasses
import json
import math
import statistics

import numpy as np
import pytest
import torch
from tests import letters, oracles
from tests.conftest import reward_vector
from tests.oracles import completions as oracle

from valuegrad.budget import Budget
from valuegrad.cli import app as cli
from valuegrad.errors import RunError, UserError
from valuegrad.prompts import tokenise
from valuegrad.rewards.function import FunctionReward
from valuegrad.sampler import rollouts
from valuegrad.tasks.arithmetic import arithmetic
from valuegrad.training import grpo_trl
from valuegrad.training import trl_trainer as module
from valuegrad.training.train import train

SMALL = Budget(
    learning_rate=3e-3,
    updates=(3,),
    prompts_per_update=3,
    group_size=8,
    engine="trl",
    max_gradient_norm=1e3,
)
SUMS = arithmetic(prompts=6, train_prompts=8, digits=1)


def longest(prompts, completions, **columns):
    """A reward of the text: its length."""
    return [float(len(text)) for text in completions]


GRADED = dataclasses.replace(
    SUMS, reward=FunctionReward("tests:longest", longest), max_tokens=4, stop="\n"
)


@pytest.fixture
def gradients(monkeypatch):
    """The parameter gradient of every update, as the trainer hands it to the optimiser."""
    seen = []

    def record(parameters, *_, **__):
        seen.append([-p.grad.clone() for p in parameters])
        return torch.tensor(0.0)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", record)
    return seen


@pytest.fixture
def rewarded(monkeypatch):
    """The rows, completions and rewards of every batch."""
    seen = []
    real = module.Reward.__call__

    def record(self, completion_ids, row, **rest):
        found = real(self, completion_ids, row, **rest)
        seen.append((row, completion_ids, rest["completions"], found))
        return found

    monkeypatch.setattr(module.Reward, "__call__", record)
    return seen


@pytest.mark.parametrize("method", oracles.METHODS)
def test_an_update_follows_the_methods_conditional_gradient(policy, task, gradients, method):
    reference, chosen = policy("llama", "float32"), task("llama", "graded")
    exact = policy("llama")
    ids = [exact.tokenizer(e.prompt)["input_ids"] for e in chosen.train]
    rs = [reward_vector(exact, chosen, e) for e in chosen.train]
    expected = oracles.conditional_gradient(exact.model, ids, rs, method)
    budget = dataclasses.replace(SMALL, method=method, updates=(1,), group_size=2000)
    train(reference, chosen, budget=budget, seed=1)
    (found,) = gradients
    inner = sum(float((g * e).sum()) for g, e in zip(found, expected, strict=True))
    ours, theirs = (math.sqrt(sum(float((g**2).sum()) for g in x)) for x in (found, expected))
    assert inner / (ours * theirs) > 0.97
    assert inner / theirs**2 == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("method", oracles.METHODS)
def test_completions_weigh_by_their_length_as_the_method_says(gradients, rewarded, method):
    """mean_i Â_i w(T_i) ∇ log π(o_i) of what was drawn, by loops, with w of the method's name."""
    start = letters.policy("gpt2", scale=0.35)
    task = letters.task(("a", "b", "cd"), reward=FunctionReward("tests:longest", longest))
    budget = dataclasses.replace(SMALL, method=method, updates=(1,), group_size=4)
    train(start, task, budget=budget, seed=1)
    ((rows, completions, _, rewards),), (found,) = rewarded, gradients
    assert len({len(c) for c in completions}) > 1
    groups = [rewards[i : i + 4] for i in range(0, len(rewards), 4)]
    advantages = [a for group in oracles.group_advantages(method, groups) for a in group]
    prompts, total = tokenise(start, task).train, torch.zeros((), dtype=torch.float64)
    for row, completion, advantage in zip(rows, completions, advantages, strict=True):
        log_p = oracle.log_probability(start.model, list(prompts.tokens[row]), completion)
        weight = oracle.token_weight(method, len(completion), letters.MAX_TOKENS)
        total = total + advantage * weight * log_p / len(rows)
    expected = torch.autograd.grad(total, list(start.model.parameters()), allow_unused=True)
    for mine, other in zip(found, expected, strict=True):
        assert (mine - other).norm() <= 1e-5 * other.norm() + 1e-9


def test_rewards_agree_with_the_own_loops_within_the_seeds_spread(policy, task):
    start = policy("llama", "float32")
    same = dataclasses.replace(task("llama"), train=task("llama").evaluation)
    budget = dataclasses.replace(SMALL, prompts_per_update=5, group_size=16, updates=(10,))
    both = [
        [train(start, same, budget=b, seed=s).gains[0] for s in range(4)]
        for b in (dataclasses.replace(budget, engine="one_token"), budget)
    ]
    (own, theirs), spread = map(statistics.mean, both), [statistics.variance(x) for x in both]
    assert own > 0.05
    assert abs(own - theirs) < 3 * math.sqrt(sum(spread) / 4)


def test_a_run_starts_from_the_own_loops_reward(policy, task):
    start = policy("gpt2", "float32")
    own = train(start, task("gpt2"), budget=dataclasses.replace(SMALL, engine="one_token"))
    assert train(start, task("gpt2"), budget=SMALL).reward_before == own.reward_before


@pytest.mark.parametrize("chosen", [SUMS, GRADED], ids=["exact", "function"])
def test_completions_are_rewarded_as_rollouts_are(policy, chosen):
    reference = policy("llama", "float32")
    prompts = tokenise(reference, chosen).train
    drawn = rollouts(reference, prompts, 5, seed=0)
    answers = [list(c) for row in range(len(prompts)) for c in prompts.accepted(row)[:1]]
    ids = [list(c) for group in drawn.completions for c in group] + answers
    rows = [r for r in range(len(prompts)) for _ in range(5)] + list(range(len(answers)))
    reward = module.Reward(reference, prompts)
    found = reward(completion_ids=ids, row=rows, completions=["?"] * len(ids))
    assert found[: drawn.rewards.numel()] == drawn.rewards.flatten().tolist()
    if prompts.exact:
        assert found[drawn.rewards.numel() :] == [1.0] * len(answers)


def test_a_completion_ends_at_the_tasks_stop_and_is_read_without_it(policy, rewarded):
    reference = policy("gpt2", "float32")
    # Of the tokens that stand for a text of their own, the one that this policy draws most.
    drawn = rollouts(reference, tokenise(reference, GRADED).train, 64, seed=0)
    common = collections.Counter(t for group in drawn.completions for c in group for t in c)
    decode, encode = reference.tokenizer.decode, reference.tokenizer
    stop = next(t for t, _ in common.most_common() if t and encode(decode(t))["input_ids"] == [t])
    chosen = dataclasses.replace(GRADED, stop=decode(stop))
    budget = dataclasses.replace(SMALL, group_size=64, learning_rate=1e-6)
    train(reference, chosen, budget=budget)
    drawn = [c for _, ids, _, _ in rewarded for c in ids]
    stopped = [c for c in drawn if stop in c]
    assert len(stopped) > 5
    assert all(c.index(stop) == len(c) - 1 for c in stopped)
    assert all(len(c) == 4 for c in drawn if c[-1] not in (stop, 0))
    for _, ids, texts, values in rewarded:
        for c, text, value in zip(ids, texts, values, strict=True):
            assert value == len(text) - len(decode(stop)) * (c[-1] == stop)


def test_prompts_are_read_as_valuegrad_reads_them(policy, monkeypatch):
    seen = []
    real = module.Trainer._tokenize_prompts

    def record(self, prompts):
        found = real(self, prompts)
        seen.extend(zip(prompts, found[0], strict=True))
        return found

    monkeypatch.setattr(module.Trainer, "_tokenize_prompts", record)
    reference = policy("llama", "float32")
    train(reference, SUMS, budget=SMALL)
    prompts = tokenise(reference, SUMS).train
    known = {e.prompt: list(t) for e, t in zip(prompts.examples, prompts.tokens, strict=True)}
    assert len(seen) == 3 * 3 * 8
    assert all(known[text] == list(ids) for text, ids in seen)


def test_every_prompt_comes_once_before_any_comes_again(policy, rewarded):
    budget = dataclasses.replace(SMALL, prompts_per_update=2, updates=(8,))
    train(policy("gpt2", "float32"), SUMS, budget=budget)
    order = [row for rows, _, _, _ in rewarded for row in rows[::8]]
    assert all(rows == [r for r in rows[::8] for _ in range(8)] for rows, _, _, _ in rewarded)
    assert sorted(order[:8]) == sorted(order[8:]) == list(range(8))


def test_seeds_decide_everything_and_nothing_outside_changes(policy):
    start = policy("llama", "float32")
    before = {name: x.clone() for name, x in start.model.state_dict().items()}
    torch.manual_seed(5)
    chance = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = train(start, GRADED, budget=SMALL, seed=1)
    assert torch.equal(torch.get_rng_state(), chance[0])
    assert (np.random.get_state()[1] == chance[1]).all()
    torch.manual_seed(99)
    again = train(start, GRADED, budget=SMALL, seed=1)
    other = train(start, GRADED, budget=SMALL, seed=2)
    assert first == again
    assert first.engine == "trl"
    assert first.rewards_after != other.rewards_after
    for name, x in start.model.state_dict().items():
        assert torch.equal(x, before[name]), name
    assert start.tokenizer.padding_side == "right"
    assert not start.model.training
    assert all(p.grad is None for p in start.model.parameters())


def test_a_budget_read_off_a_longer_run_is_that_of_a_shorter_one(policy):
    counted = []
    short = train(policy("gpt2", "float32"), GRADED, budget=SMALL)
    longer = dataclasses.replace(SMALL, updates=(1, 3, 4))
    long = train(policy("gpt2", "float32"), GRADED, budget=longer, progress=counted.append)
    assert long.rewards_after[1] == short.rewards_after[0]
    assert counted == [1, 2, 3, 4]


def test_passes_over_an_update_change_rounding_only(policy, monkeypatch):
    whole = train(policy("llama", "float32"), SUMS, budget=SMALL)
    monkeypatch.setattr(grpo_trl, "TRAINING_TOKENS", 40)
    parts = train(policy("llama", "float32"), SUMS, budget=SMALL)
    assert parts.rewards_after == pytest.approx(whole.rewards_after, rel=1e-3, abs=1e-9)


def test_inner_epochs_use_a_batch_again(policy, rewarded):
    budget = dataclasses.replace(SMALL, inner_epochs=2, updates=(5,))
    counted = []
    train(policy("gpt2", "float32"), SUMS, budget=budget, progress=counted.append)
    assert counted == [1, 2, 3, 4, 5]
    assert len(rewarded) == 3


def test_a_large_penalty_keeps_the_policy_where_it_was(policy, task):
    same = dataclasses.replace(task("llama"), train=task("llama").evaluation)

    def gain(beta):
        budget = dataclasses.replace(
            SMALL, beta=beta, kl="k3", prompts_per_update=5, group_size=32, updates=(8,)
        )
        return train(policy("llama", "float32"), same, budget=budget).gains[0]

    assert abs(gain(1e3)) < 0.25 * gain(0.0)


def test_groups_without_spread_are_counted_and_teach_nothing(policy):
    equal = dataclasses.replace(
        GRADED,
        reward=FunctionReward("tests:equal", lambda completions, **_: [0.7] * len(completions)),
    )
    found = train(policy("gpt2", "float32"), equal, budget=SMALL)
    assert found.zero_spread_groups == 1.0
    assert found.gains == pytest.approx((0.0,), abs=1e-12)


def test_lora_trains_only_its_own_matrices(policy, task):
    start = policy("llama", "float32")
    same = dataclasses.replace(task("llama"), train=task("llama").evaluation)
    budget = dataclasses.replace(
        SMALL, lora_rank=2, learning_rate=3e-2, prompts_per_update=5, group_size=32, updates=(8,)
    )
    assert train(start, same, budget=budget).gains[0] > 0.02
    assert not any("lora" in name for name, _ in start.model.named_parameters())


def test_float64_policies_train(policy):
    found = train(policy("olmo2", "float64"), SUMS, budget=SMALL)
    assert all(map(math.isfinite, found.rewards_after))


def test_half_precision_is_refused(policy):
    with pytest.raises(UserError, match=r"dtype: got bfloat16; wanted float32 or float64"):
        train(policy("gpt2", "bfloat16"), SUMS, budget=SMALL)


@pytest.mark.parametrize("architecture", ["olmo2", "gpt2"])
def test_a_policy_that_leaves_the_numbers_is_an_error(policy, architecture):
    budget = dataclasses.replace(SMALL, learning_rate=1e30)
    with pytest.raises(RunError, match=r"finite numbers.*lower `learning_rate`"):
        train(policy(architecture, "float32"), GRADED, budget=budget)


def test_an_unusable_reward_is_the_users_error(policy):
    broken = dataclasses.replace(GRADED, reward=FunctionReward("tests:none", lambda **_: None))
    with pytest.raises(UserError, match=r"reward tests:none"):
        train(policy("gpt2", "float32"), broken, budget=SMALL)


def test_the_command_prints_json_alone(checkpoint, tmp_path, capsys):
    problems = tmp_path / "sums.jsonl"
    rows = [{"prompt": e.prompt, "answer": e.answer} for e in (*SUMS.train, *SUMS.evaluation)]
    problems.write_text("\n".join(map(json.dumps, rows)))
    words = ["train", str(checkpoint("llama")), "--task", str(problems), "--engine", "trl"]
    words += ["--updates", "1,2", "--seeds", "1", "--prompts-per-update", "2", "--group-size", "4"]
    assert cli.run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["engine"], row["updates"]) for row in found] == [("trl", 1), ("trl", 2)]
