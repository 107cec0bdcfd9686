"""The five methods: against loops, against TRL, and samples against populations."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import oracles

from valuegrad.budget import METHODS
from valuegrad.errors import UserError
from valuegrad.methods import (
    XI,
    advantages,
    check_method,
    population_advantages,
    zero_spread,
)

WITHIN_GROUP = ("grpo", "dr_grpo", "rloo")
LEVEL = 4.5  # of every z-test: two-sided 7e-6
REWARDS = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.3, -2.0, 5.5, 0.3], [0.0, 0.0, 0.0, 1.0]])


def test_methods_are_those_of_the_theory():
    assert METHODS == oracles.METHODS
    assert XI == oracles.XI


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_equal_naive_loops(method, data):
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(2, 6)))
    number = st.floats(-100, 100, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)
    group = st.lists(number, min_size=shape[1], max_size=shape[1])
    rewards = data.draw(st.lists(group, min_size=shape[0], max_size=shape[0]))
    found = advantages(torch.tensor(rewards, dtype=torch.float64), method)
    expected = torch.tensor(oracles.group_advantages(method, rewards), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize(("method", "scale"), [("grpo", "group"), ("dr_grpo", "none")])
def test_equal_trl(trl_trainer, monkeypatch, method, scale):
    rows = REWARDS.flatten()
    n = len(rows)
    tokens = [[5, 6]] * n
    generated = (tokens, tokens, None, ["a"] * n, None, {}, None, None)
    monkeypatch.setattr(trl_trainer, "scale_rewards", scale)
    monkeypatch.setattr(trl_trainer, "_generate", lambda prompts: generated)
    monkeypatch.setattr(trl_trainer, "_calculate_rewards", lambda *_: rows[:, None])
    theirs = trl_trainer._generate_and_score_completions([{"prompt": "a"}] * n)["advantages"]
    torch.testing.assert_close(advantages(REWARDS, method).flatten(), theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", [0.0, 0.1, 0.7, -3.3, 1e6])
@pytest.mark.parametrize("shape", [(1, 3), (4, 7), (32, 16)])
def test_equal_rewards_give_exact_zeros(dtype, level, shape):
    equal = torch.full(shape, level, dtype=dtype)
    mixed = equal.clone()
    mixed[0, 0] += 1
    for method in WITHIN_GROUP:
        assert (advantages(equal, method) == 0).all(), method
        found = advantages(mixed, method)
        assert (found[1:] == 0).all(), method
        assert (found[0] != 0).all(), method
    assert zero_spread(equal).all()
    assert zero_spread(mixed).tolist() == [False] + [True] * (shape[0] - 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_whole_batch_of_equal_rewards_gives_ppo_exact_zeros(dtype):
    for level in (0.0, 0.1, 0.7, -3.3, 1e6):
        for shape in ((1, 3), (4, 7), (32, 16)):
            assert (advantages(torch.full(shape, level, dtype=dtype), "ppo") == 0).all()


def test_no_gradient_and_no_side_effects():
    rewards = REWARDS.clone().requires_grad_()
    for method in METHODS:
        found = advantages(rewards, method)
        assert not found.requires_grad
        found += 1
        assert torch.equal(rewards.detach(), REWARDS)


@pytest.mark.parametrize("method", METHODS)
def test_population_advantages_equal_the_enumeration(method):
    generator = torch.Generator().manual_seed(3)
    ps = torch.rand(4, 7, generator=generator, dtype=torch.float64).softmax(1)
    rs = torch.randn(4, 7, generator=generator, dtype=torch.float64)
    mean = (ps * rs).sum(1)
    found = population_advantages(mean, (ps * (rs - mean[:, None]) ** 2).sum(1), method)
    expected = oracles.population_advantages(method, list(ps), list(rs))
    torch.testing.assert_close(
        found.slope[:, None] * (rs - found.baseline[:, None]),
        torch.stack(expected),
        rtol=1e-12,
        atol=1e-12,
    )
    some = found.at([2, 0])
    assert torch.equal(some.slope, found.slope[[2, 0]])
    assert torch.equal(some.baseline, found.baseline[[2, 0]])


@pytest.mark.parametrize("method", METHODS)
def test_large_groups_approach_the_population(method):
    """A z-test at one group size, the standard error from the delta method."""
    size, levels = 200_000, torch.tensor([-0.5, 0.0, 0.25, 1.0], dtype=torch.float64)
    ps = torch.tensor([[0.1, 0.6, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(11)
    rewards = levels[torch.multinomial(ps, size, replacement=True, generator=generator)]
    found = advantages(rewards, method)
    expected = oracles.population_advantages(method, list(ps), [levels, levels])
    for row, p in enumerate(ps):
        group = list(ps) if method == "ppo" else [p]
        mean, deviation = oracles.mean_and_deviation(*oracles.pooled(group, [levels] * len(group)))
        for a, level in enumerate(levels):
            sampled = float(found[row][rewards[row] == level][0])
            # What one more draw x does to the advantage of this level, through mean and deviation.
            by_mean = -(levels - mean)
            by_deviation = -(level - mean) * ((levels - mean) ** 2 - deviation**2) / (2 * deviation)
            influence = {
                "reinforce": 0 * levels,
                "dr_grpo": by_mean,
                "rloo": by_mean,
            }.get(method, by_mean / (deviation + XI) + by_deviation / (deviation + XI) ** 2)
            variance = (
                sum(float(q @ influence**2 - (q @ influence) ** 2) for q in group) / len(group) ** 2
            )
            error = math.sqrt(variance / size)
            assert abs(sampled - float(expected[row][a])) <= LEVEL * error + 1e-12


@pytest.mark.parametrize(
    ("rewards", "method", "message"),
    [
        (REWARDS, "trpo", r"method: got 'trpo'; wanted one of grpo, dr_grpo, rloo"),
        (torch.tensor([[0.0, math.nan]]), "grpo", r"rewards: got NaN or infinity"),
        (torch.tensor([[0.0, math.inf]]), "reinforce", r"rewards: got NaN or infinity"),
        (torch.ones(3, 1), "grpo", r"rewards: got groups of 1 action; wanted 2 or more"),
        (torch.ones(3, 1), "rloo", r"rewards: got groups of 1 action; wanted 2 or more"),
        (torch.ones(1, 1), "ppo", r"rewards: got groups of 1 action; wanted 2 or more"),
    ],
)
def test_refuses(unchecked, rewards, method, message):
    with pytest.raises(UserError, match=message):
        advantages(rewards, method)


def test_refuses_unknown_methods_of_populations(unchecked):
    with pytest.raises(UserError, match="method: got 'trpo'"):
        population_advantages(torch.ones(1), torch.ones(1), "trpo")
    with pytest.raises(UserError, match="method: got ''"):
        check_method("")


def test_groups_of_one_are_enough_without_a_group_baseline():
    found = advantages(torch.tensor([[1.0], [0.0]]), "ppo")
    deviation = math.sqrt(0.5) + XI
    torch.testing.assert_close(found, torch.tensor([[0.5], [-0.5]]) / deviation)
