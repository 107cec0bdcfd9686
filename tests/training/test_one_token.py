"""GRPO for one-token answers: its gradient in expectation, its budgets, seeds and penalties."""

import dataclasses
import math

import pytest
import torch
from tests import oracles
from tests.conftest import reward_vector

from valuegrad.budget import Budget
from valuegrad.errors import RunError, UserError
from valuegrad.rewards.function import FunctionReward
from valuegrad.training import one_token
from valuegrad.training.train import train

LEVEL = 4.5  # of every z-test: two-sided 7e-6
HUGE_GROUP = 20_000
SMALL = Budget(
    learning_rate=3e-3, updates=(5,), prompts_per_update=3, group_size=8, max_gradient_norm=1e3
)


@pytest.fixture
def gradients(monkeypatch):
    """The parameter gradient of every update, as `train` hands it to the optimiser."""
    seen = []

    def record(parameters, *_, **__):
        seen.append([-p.grad.clone() for p in parameters])

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", record)
    return seen


@pytest.fixture
def objectives(monkeypatch):
    """The arguments of every call of the objective, tensors without their graph."""
    seen = []
    real = one_token.grpo_objective

    def record(logp, old, reference, advantages, mask, clip, beta, *, kl=None):
        tensors = (logp, old, reference, advantages, kl)
        seen.append([None if x is None else x.detach().clone() for x in tensors])
        return real(logp, old, reference, advantages, mask, clip, beta, kl=kl)

    monkeypatch.setattr(one_token, "grpo_objective", record)
    return seen


def variance_of_a_draw(p, r, advantages, projected, normaliser, signal):
    """Variance of what one draw adds to the gradient's projection on a direction.

    A draw of token a adds Â_a ∂log p_a. Where a deviation divides the advantages, the draw also
    moves that deviation, and with it the whole signal.
    """
    added = advantages * projected
    if normaliser is not None:
        mean, deviation = normaliser
        moved = ((r - mean) ** 2 - deviation**2) / (2 * deviation * (deviation + oracles.XI))
        added = added - signal * moved
    return float(p @ (added - p @ added) ** 2)


@pytest.mark.parametrize("method", oracles.METHODS)
@pytest.mark.parametrize("reward", ["exact", "graded"])
def test_one_update_estimates_the_conditional_gradient(policy, task, gradients, method, reward):
    """A z-test of its projection on the expected gradient, all draws from one seed."""
    reference, chosen = policy("olmo2"), task("olmo2", reward)
    ids = [reference.tokenizer(e.prompt)["input_ids"] for e in chosen.train]
    rs = [reward_vector(reference, chosen, e) for e in chosen.train]
    ps = [oracles.distribution(reference.model, prompt) for prompt in ids]
    expected = oracles.conditional_gradient(reference.model, ids, rs, method)
    length = math.sqrt(sum(float((g**2).sum()) for g in expected))
    direction = [g / length for g in expected]

    budget = dataclasses.replace(SMALL, method=method, updates=(1,), group_size=HUGE_GROUP)
    train(reference, chosen, budget=budget, seed=1)
    found = sum(float((g * u).sum()) for g, u in zip(gradients[0], direction, strict=True))

    up, down = (oracles.moved(reference.model, direction, step) for step in (1e-5, -1e-5))
    advantages = oracles.population_advantages(method, ps, rs)
    with torch.no_grad():
        projected = [
            (oracles.log_distribution(up, q) - oracles.log_distribution(down, q)) / 2e-5
            for q in ids
        ]
    variance = 0.0
    for p, r, A, u in zip(ps, rs, advantages, projected, strict=True):
        normaliser, signal = {
            "grpo": (oracles.mean_and_deviation(p, r), float(p @ (A * u))),
            "ppo": (oracles.mean_and_deviation(*oracles.pooled(ps, rs)), length),
        }.get(method, (None, 0.0))
        variance += variance_of_a_draw(p, r, A, u, normaliser, signal) / len(ps) ** 2
    error = math.sqrt(variance / HUGE_GROUP)
    assert error < 0.05 * length
    assert abs(found - length) < LEVEL * error
    cosine = found / math.sqrt(sum(float((g**2).sum()) for g in gradients[0]))
    assert cosine > 0.99


def test_a_budget_read_off_a_longer_run_is_that_of_a_shorter_one(policy, task):
    short = train(policy("gpt2", "float32"), task("gpt2"), (5,), budget=SMALL, seed=3)
    long = train(policy("gpt2", "float32"), task("gpt2"), (2, 5, 9), budget=SMALL, seed=3)
    assert long.rewards_after[1] == short.rewards_after[0]
    assert long.budget.updates == (2, 5, 9)
    assert len({*long.rewards_after, long.reward_before}) == 4
    assert long.gains == tuple(after - long.reward_before for after in long.rewards_after)


def test_the_reward_before_is_the_enumerated_one(policy, task, enumeration):
    _, ps, rs, _ = enumeration("gpt2", "graded")
    expected = sum(float(p @ r) for p, r in zip(ps, rs, strict=True)) / len(ps)
    found = train(policy("gpt2"), task("gpt2", "graded"), (1,), budget=SMALL)
    assert found.reward_before == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("reward", ["exact", "graded"])
def test_seeds_decide_everything_and_the_policy_stays(policy, task, reward):
    start = policy("gpt2", "float32")
    before = {name: x.clone() for name, x in start.model.state_dict().items()}
    torch.manual_seed(0)
    first = train(start, task("gpt2", reward), budget=SMALL, seed=1)
    torch.manual_seed(99)
    again = train(start, task("gpt2", reward), budget=SMALL, seed=1)
    other = train(start, task("gpt2", reward), budget=SMALL, seed=2)
    assert first == again
    assert first.rewards_after != other.rewards_after
    assert first.reward_before == other.reward_before
    for name, x in start.model.state_dict().items():
        assert torch.equal(x, before[name]), name
    assert all(p.grad is None for p in start.model.parameters())


def test_training_on_the_held_out_prompts_raises_their_reward(policy, task):
    same = dataclasses.replace(task("llama"), train=task("llama").evaluation)
    budget = dataclasses.replace(SMALL, prompts_per_update=5, group_size=64, updates=(20,))
    assert train(policy("llama", "float32"), same, budget=budget).gains[0] > 0.1


def test_the_ratios_leave_one_with_the_second_inner_epoch(policy, task, objectives):
    budget = dataclasses.replace(SMALL, updates=(6,), inner_epochs=3)
    train(policy("olmo2", "float32"), task("olmo2", "graded"), budget=budget)
    assert len(objectives) == 6
    ratios = [(logp - old).exp() for logp, old, *_ in objectives]
    for call, ratio in enumerate(ratios):
        assert torch.equal(ratio, torch.ones_like(ratio)) == (call % 3 == 0)
    for call in (1, 2, 4, 5):  # the same draws and advantages as at the batch's first pass
        first = objectives[call - call % 3]
        assert torch.equal(objectives[call][1], first[1])
        assert torch.equal(objectives[call][3], first[3])


def test_clipping_matters_once_ratios_leave_one(policy, task):
    def after(clip, inner_epochs):
        budget = dataclasses.replace(SMALL, clip=clip, inner_epochs=inner_epochs, updates=(6,))
        return train(policy("olmo2", "float32"), task("olmo2", "graded"), budget=budget)

    assert after(1e-3, 3).rewards_after != after(1e6, 3).rewards_after
    assert after(1e-3, 1).rewards_after == after(1e6, 1).rewards_after


@pytest.mark.parametrize("kl", ["exact", "k3"])
def test_a_large_penalty_keeps_the_policy_where_it_was(policy, task, kl):
    same = dataclasses.replace(task("llama"), train=task("llama").evaluation)

    def gain(beta):
        budget = dataclasses.replace(
            SMALL, beta=beta, kl=kl, prompts_per_update=5, group_size=64, updates=(20,)
        )
        return train(policy("llama", "float32"), same, budget=budget).gains[0]

    assert abs(gain(1e3)) < 0.25 * gain(0.0)


def test_k3_is_the_exact_kl_in_expectation(policy, task, objectives):
    """Both from the same policies, one update away from the reference; a z-test per prompt."""
    for kl in ("exact", "k3"):
        budget = dataclasses.replace(
            SMALL, beta=1e-9, kl=kl, updates=(2,), group_size=HUGE_GROUP, learning_rate=1e-2
        )
        train(policy("olmo2"), task("olmo2"), budget=budget)
    (_, _, _, _, start), (_, _, _, _, exact), _, (logp, _, reference, _, none) = objectives
    assert none is None
    assert (start == 0).all()
    exact, gap = exact.view(3, -1), (reference - logp).view(3, -1).double()
    assert (exact == exact[:, :1]).all()
    assert (exact > 1e-3).all()
    estimates = gap.exp() - gap - 1
    errors = estimates.std(1) / math.sqrt(HUGE_GROUP)
    assert (errors < 0.1 * exact[:, 0]).all()
    assert ((estimates.mean(1) - exact[:, 0]).abs() < LEVEL * errors).all()


def test_the_exact_kl_is_never_negative(policy, task, objectives):
    budget = dataclasses.replace(SMALL, beta=5.0, updates=(12,), learning_rate=1e-4)
    train(policy("qwen3", "float32"), task("qwen3"), budget=budget)
    assert min(float(kl.min()) for *_, kl in objectives) >= -1e-6  # a float32 sum over the tokens
    assert max(float(kl.max()) for *_, kl in objectives) > 0


def test_groups_without_spread_are_counted_and_teach_nothing(policy, task):
    equal = dataclasses.replace(
        task("gpt2"),
        reward=FunctionReward("tests:equal", lambda completions, **_: [0.7] * len(completions)),
    )
    for method in ("grpo", "dr_grpo", "rloo", "ppo"):
        budget = dataclasses.replace(SMALL, method=method)
        found = train(policy("gpt2", "float32"), equal, budget=budget)
        assert found.zero_spread_groups == 1.0
        assert found.gains == pytest.approx((0.0,), abs=1e-9)


def test_every_prompt_comes_once_before_any_comes_again(policy, task, monkeypatch):
    seen = []
    real = one_token.final_states
    monkeypatch.setattr(
        one_token, "final_states", lambda p, tokens: seen.extend(tokens) or real(p, tokens)
    )
    budget = dataclasses.replace(SMALL, prompts_per_update=2, updates=(6,))
    train(policy("gpt2", "float32"), task("gpt2"), budget=budget)
    assert len(seen) == 12
    assert all(len(set(seen[start : start + 3])) == 3 for start in range(0, 12, 3))


def test_progress_counts_updates(policy, task):
    counted = []
    train(policy("gpt2", "float32"), task("gpt2"), (3,), budget=SMALL, progress=counted.append)
    assert counted == [1, 2, 3]


def test_a_policy_that_leaves_the_numbers_is_an_error(policy, task):
    budget = dataclasses.replace(SMALL, learning_rate=1e30)
    with pytest.raises(RunError, match=r"finite numbers.*lower `learning_rate` and run again"):
        train(policy("olmo2", "float32"), task("olmo2"), budget=budget)


def test_half_precision_is_refused(policy, task):
    with pytest.raises(UserError, match=r"dtype: got bfloat16; wanted float32 or float64"):
        train(policy("gpt2", "bfloat16"), task("gpt2"), budget=SMALL)
