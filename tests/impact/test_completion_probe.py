"""The sampled update against the exact one: its mean, its length and what its step brings."""

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
from tests import letters, oracles
from tests.oracles import completions as oracle

from valuegrad.credit.answer_gradients import answer_values
from valuegrad.impact import completion_probe as module
from valuegrad.impact.completion_probe import exact_update, sampled_update
from valuegrad.impact.held_out import held_out_rewards
from valuegrad.impact.probe import move
from valuegrad.rewards.function import FunctionReward
from valuegrad.sampler import rollouts

DRAWS = 100
SIZE = 8


def case(architecture="gpt2", scale=0.35):
    policy = letters.policy(architecture, scale=scale)
    task = letters.task(letters.answers(architecture, ranks=((1, 0),) * 3, scale=scale))
    return policy, letters.asked(policy, task)


def flat(gradients):
    return torch.cat([g.double().flatten() for g in gradients])


@functools.cache
def directions(length, count=6):
    generator = torch.Generator().manual_seed(4)
    found = torch.randn(count, length, generator=generator, dtype=torch.float64)
    return found / found.norm(dim=1, keepdim=True)


@functools.cache
def updates(method):
    """Of independent draws the gradient along some directions, along the truth, and its length."""
    policy, prompts = case()
    truth = flat(exact_update(policy, prompts, method).gradients)
    rays = torch.cat((directions(len(truth)), (truth / truth.norm())[None]))
    along, lengths = [], []
    for seed in range(DRAWS):
        found = sampled_update(policy, rollouts(policy, prompts, SIZE, seed=seed), method)
        along.append((rays @ flat(found.gradients)).numpy())
        lengths.append(found.gradient_norm)
    return (rays @ truth).numpy(), np.array(along), np.array(lengths)


def z_scores(values, truth):
    return (values.mean(0) - truth) / (values.std(0, ddof=1) / math.sqrt(len(values)))


@pytest.mark.parametrize("method", ["dr_grpo", "rloo", "reinforce"])
def test_the_mean_of_sampled_updates_is_the_exact_update(method):
    truth, along, _ = updates(method)
    assert abs(z_scores(along, truth)).max() < 4
    # The noise is small enough for half as much to be seen.
    assert z_scores(along, truth / 2)[-1] > 4


def part_of(drawn, part):
    groups = {
        name: tuple(g[part] for g in getattr(drawn, name)) for name in ("completions", "texts")
    }
    columns = {
        name: getattr(drawn, name)[:, part] for name in ("rewards", "logp", "truncated", "empty")
    }
    return dataclasses.replace(drawn, **groups, **columns)


def test_squared_lengths_are_unbiased():
    """The inner product of two independent halves, which is negative at times: NaN then."""
    policy, prompts = case()
    truth = float(flat(exact_update(policy, prompts, "reinforce").gradients).norm())
    squares = []
    for seed in range(DRAWS):
        drawn = rollouts(policy, prompts, SIZE, seed=seed)
        # Without a baseline the update is a plain mean, of which each half is one.
        one, other = (
            flat(sampled_update(policy, part_of(drawn, part), "reinforce").gradients)
            for part in (slice(0, SIZE // 2), slice(SIZE // 2, SIZE))
        )
        squares.append(float(one @ other))
        found = sampled_update(policy, drawn, "reinforce")
        assert (flat(found.gradients) - (one + other) / 2).norm() < 1e-12
        if squares[-1] >= 0:
            assert found.gradient_norm == pytest.approx(math.sqrt(squares[-1]), abs=1e-9)
        else:
            assert math.isnan(found.gradient_norm)
    assert abs(z_scores(np.array(squares), truth**2)) < 4
    assert z_scores(np.array(squares), 2 * truth**2) < -4


def gradient(policy, drawn, part, advantages):
    """Mean of Â ∇ log π of some rollouts, one forward pass a token and one backward pass in all."""
    total = torch.zeros((), dtype=torch.float64)
    count = 0
    for prefix, group, row in zip(drawn.prefixes, drawn.completions, advantages, strict=True):
        for completion, advantage in zip(group[part], row, strict=True):
            count += 1
            if advantage:
                log_p = oracle.log_probability(policy.model, list(prefix), completion)
                total = total + advantage * log_p
    if not total.requires_grad:
        return torch.zeros(sum(p.numel() for p in policy.model.parameters())).double()
    return flat(torch.autograd.grad(total / count, list(policy.model.parameters())))


@pytest.mark.parametrize("method", oracles.METHODS)
def test_an_update_is_the_mean_of_advantages_times_scores(method, monkeypatch):
    """For every method, its group's own mean taken off as in a group that leaves it out."""
    policy, prompts = case("qwen3", 0.4)
    drawn = rollouts(policy, prompts, SIZE, seed=3)
    halves = []
    for part in (slice(0, SIZE // 2), slice(SIZE // 2, SIZE)):
        advantages = oracles.group_advantages(method, drawn.rewards[:, part].tolist())
        factor = SIZE / (SIZE - 2) if method in ("grpo", "dr_grpo") else 1.0
        halves.append(factor * gradient(policy, drawn, part, advantages))
    expected = (halves[0] + halves[1]) / 2
    assert expected.norm() > 0
    found = sampled_update(policy, drawn, method)
    assert (flat(found.gradients) - expected).norm() < 1e-9 * expected.norm()
    monkeypatch.setattr(module, "FORWARD_TOKENS", 8)
    pieces = sampled_update(policy, drawn, method)
    assert (flat(pieces.gradients) - expected).norm() < 1e-9 * expected.norm()
    single = sampled_update(letters.policy("qwen3", "float32", scale=0.4), drawn, method)
    assert (flat(single.gradients) - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("method", oracles.METHODS)
def test_the_sampled_probe_step_brings_what_the_closed_form_does(method):
    """2,048 rollouts: the update's, and others coupled by their chance before and after."""
    policy, prompts = case()
    update = sampled_update(policy, rollouts(policy, prompts, 2048, seed=0), method)
    exact = exact_update(policy, prompts, method)
    # In a group of 1,024 mean and deviation are nearly the population's.
    assert update.gradient_norm == pytest.approx(exact.gradient_norm, rel=0.05)
    before = rollouts(policy, prompts, 2048, seed=1).rewards
    after = []

    def rewards():
        after.append(rollouts(policy, prompts, 2048, seed=1).rewards)
        return answer_values(policy, prompts)

    closed, probed = (
        move(u, r, [2e-3])
        for u, r in ((exact, lambda: answer_values(policy, prompts)), (update, rewards))
    )
    expected = float((closed.reward_after[0] - closed.reward_before).mean())
    there = float((probed.reward_after[0] - closed.reward_before).mean())
    assert there == pytest.approx(expected, rel=0.02)
    change = after[-1] - before
    error = math.sqrt(float((change.var(1) / change.shape[1]).sum())) / 3
    assert there > 8 * error
    assert abs(float(change.mean()) - there) < 4 * error
    uncoupled = math.sqrt(2 * float((before.var(1) / before.shape[1]).sum())) / 3
    assert error < 0.6 * uncoupled


def test_held_out_rewards_are_those_of_the_way_that_measures():
    policy, prompts = case()
    exact = letters.task([e.answer for e in prompts.examples])
    torch.testing.assert_close(held_out_rewards(policy, exact), answer_values(policy, prompts))
    right = {e.prompt: e.answer for e in prompts.examples}

    def f(prompts, completions, **_):
        return [float(right[p] == c) for p, c in zip(prompts, completions, strict=True)]

    drawn = letters.task(list(right.values()), reward=FunctionReward("tests:f", f))
    found = held_out_rewards(policy, drawn, rollouts=3000, seed=2)
    # One token and a stop: nothing else has the text of the answer.
    value = answer_values(policy, prompts)
    error = (value * (1 - value) / 3000).sqrt()
    assert bool(((found - value).abs() < 4 * error).all())
    assert torch.equal(found, held_out_rewards(policy, drawn, rollouts=3000, seed=2))
