"""The sampled update against the exact one: its mean, its length and what its step brings."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from tests import letters, oracles
from tests.oracles import completions as oracle

from valuegrad.impact import teacher_forced
from valuegrad.impact.estimator import Estimator, Measured
from valuegrad.impact.probe import move
from valuegrad.impact.sampled_update import reweighted_update, update
from valuegrad.model import batches as batches_module
from valuegrad.sampler import rollouts

DRAWS = 100
SIZE = 8
FORMED = (4, 2, letters.MAX_TOKENS)  # G, Q and L


def case(architecture="gpt2", scale=0.35):
    policy = letters.policy(architecture, scale=scale)
    task = letters.task(letters.answers(architecture, ranks=((1, 0),) * 3, scale=scale))
    return policy, letters.asked(policy, task)


def flat(gradients):
    return torch.cat([g.double().flatten() for g in gradients])


def z_scores(values, truth):
    return (values.mean(0) - truth) / (values.std(0, ddof=1) / math.sqrt(len(values)))


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
    truth = float(flat(teacher_forced.update(policy, prompts, "reinforce").gradients).norm())
    squares = []
    for seed in range(DRAWS):
        drawn = rollouts(policy, prompts, SIZE, seed=seed)
        # Without a baseline the update is a plain mean, of which each half is one.
        one, other = (
            flat(update(policy, part_of(drawn, part), "reinforce").gradients)
            for part in (slice(0, SIZE // 2), slice(SIZE // 2, SIZE))
        )
        squares.append(float(one @ other))
        found = update(policy, drawn, "reinforce")
        assert (flat(found.gradients) - (one + other) / 2).norm() < 1e-12
        if squares[-1] >= 0:
            assert found.gradient_norm == pytest.approx(math.sqrt(squares[-1]), abs=1e-9)
        else:
            assert math.isnan(found.gradient_norm)
    assert abs(z_scores(np.array(squares), truth**2)) < 4
    assert z_scores(np.array(squares), 2 * truth**2) < -4


def gradient(policy, drawn, part, advantages, method):
    """Mean of Â w(T) ∇ log π of some rollouts, one forward pass a token, one backward in all."""
    total = torch.zeros((), dtype=torch.float64)
    count = 0
    for prefix, group, row in zip(drawn.prefixes, drawn.completions, advantages, strict=True):
        for completion, advantage in zip(group[part], row, strict=True):
            count += 1
            if advantage:
                log_p = oracle.log_probability(policy.model, list(prefix), completion)
                weight = oracle.token_weight(method, len(completion), letters.MAX_TOKENS)
                total = total + advantage * weight * log_p
    if not total.requires_grad:
        return torch.zeros(sum(p.numel() for p in policy.model.parameters())).double()
    return flat(torch.autograd.grad(total / count, list(policy.model.parameters())))


@pytest.mark.parametrize("method", [m for m in oracles.METHODS if m != "ppo"])
def test_an_update_is_the_mean_of_advantages_times_scores(method, monkeypatch):
    """Two halves of 8 rollouts, each a group of 4 for itself."""
    policy, prompts = case("qwen3", 0.4)
    drawn = rollouts(policy, prompts, SIZE, seed=3)
    halves = []
    for part in (slice(0, SIZE // 2), slice(SIZE // 2, SIZE)):
        advantages = oracles.group_advantages(method, drawn.rewards[:, part].tolist())
        halves.append(gradient(policy, drawn, part, advantages, method))
    expected = (halves[0] + halves[1]) / 2
    assert expected.norm() > 0
    found = update(policy, drawn, method, *FORMED)
    assert (flat(found.gradients) - expected).norm() < 1e-9 * expected.norm()
    monkeypatch.setattr(batches_module, "BATCH_TOKENS", 8)
    pieces = update(policy, drawn, method, *FORMED)
    assert (flat(pieces.gradients) - expected).norm() < 1e-9 * expected.norm()
    single = update(letters.policy("qwen3", "float32", scale=0.4), drawn, method, *FORMED)
    assert (flat(single.gradients) - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("method", oracles.METHODS)
def test_the_sampled_probe_step_brings_what_the_closed_form_does(method):
    """2,048 rollouts: the update's, and others coupled by their chance before and after."""
    policy, prompts = case()
    many = rollouts(policy, prompts, 2048, seed=0)
    drawn = update(policy, many, method, *FORMED)
    exact = teacher_forced.update(policy, prompts, method, *FORMED[:2], draws=512)
    assert drawn.gradient_norm == pytest.approx(exact.gradient_norm, rel=0.05)
    before = rollouts(policy, prompts, 2048, seed=1).rewards
    after = []

    def rewards():
        after.append(rollouts(policy, prompts, 2048, seed=1).rewards)
        return values()

    def values():
        return teacher_forced.rewards(policy, prompts)

    def change_of(step, measured):
        way = Estimator("sampled", lambda: Measured({}), measured, lambda _: step, 1, 3)
        return float(move(way, values(), [2e-3]).change[0].mean())

    expected, there = change_of(exact, values), change_of(drawn, rewards)
    assert there == pytest.approx(expected, rel=0.02)
    change = after[-1] - before
    error = math.sqrt(float((change.var(1) / change.shape[1]).sum())) / 3
    assert there > 8 * error
    assert abs(float(change.mean()) - there) < 4 * error
    uncoupled = math.sqrt(2 * float((before.var(1) / before.shape[1]).sum())) / 3
    assert error < 0.6 * uncoupled


def moved_policy(policy, distance):
    """The policy with every parameter a little elsewhere."""
    generator = torch.Generator().manual_seed(6)
    steps = [torch.randn(p.shape, generator=generator).double() for p in policy.model.parameters()]
    other = dataclasses.replace(policy, model=copy.deepcopy(policy.model))
    with torch.no_grad():
        for parameter, step in zip(other.model.parameters(), steps, strict=True):
            parameter.add_(distance * step)
    return other


@pytest.mark.parametrize("method", oracles.METHODS)
def test_after_a_move_rollouts_weigh_as_they_have_become_likely(method):
    """Weights, the advantages in groups drawn with them, and the sum of scores by loops."""
    policy, prompts = case("qwen3", 0.4)
    drawn = rollouts(policy, prompts, SIZE, seed=3)
    moved = moved_policy(policy, 0.02)
    log_p = [
        [oracle.log_probability(moved.model, list(prefix), c) for c in group]
        for prefix, group in zip(drawn.prefixes, drawn.completions, strict=True)
    ]
    shares = []
    for row, group in enumerate(log_p):
        ratios = [
            math.exp(float(x.detach()) - float(drawn.logp[row, i])) for i, x in enumerate(group)
        ]
        shares.append(torch.tensor([x / sum(ratios) for x in ratios], dtype=torch.float64))
    assert max(float(s.max() / s.min()) for s in shares) > 1.05
    advantages = oracles.mean_advantages(method, shares, list(drawn.rewards), *FORMED[:2])
    objective = torch.zeros((), dtype=torch.float64)
    for row, group in enumerate(log_p):
        for i, x in enumerate(group):
            length = len(drawn.completions[row][i])
            weight = oracle.token_weight(method, length, letters.MAX_TOKENS)
            objective = objective + shares[row][i] * advantages[row][i] * weight * x / 3
    parameters = list(moved.model.parameters())
    expected = flat(torch.autograd.grad(objective, parameters, allow_unused=False))
    found = reweighted_update(moved, drawn, method, *FORMED)
    assert expected.norm() > 0
    assert (flat(found.gradients) - expected).norm() < 1e-9 * expected.norm()
    assert found.gradient_norm == pytest.approx(float(expected.norm()), rel=1e-9)


@pytest.mark.parametrize("method", ["grpo", "rloo", "ppo"])
def test_many_rollouts_of_before_give_the_update_after_a_move(method):
    """2,048 of them: closer to the exact update there than that of before, weights or not."""
    policy, prompts = case()
    drawn = rollouts(policy, prompts, 2048, seed=0)
    moved = moved_policy(policy, 0.02)
    exact, before = (
        flat(teacher_forced.update(at, prompts, method, *FORMED[:2], draws=256).gradients)
        for at in (moved, policy)
    )
    found = flat(reweighted_update(moved, drawn, method, *FORMED).gradients)
    error = float((found - exact).norm() / exact.norm())
    assert error < 0.15
    assert error < 0.5 * float((before - exact).norm() / exact.norm())


def test_where_the_policy_has_not_moved_it_is_the_update_itself():
    policy, prompts = case()
    drawn = rollouts(policy, prompts, SIZE, seed=3)
    one, other = (
        flat(f(policy, drawn, "reinforce").gradients) for f in (update, reweighted_update)
    )
    # `generate` hands over its logits in float32, and the weights rest on them.
    assert (one - other).norm() < 1e-6 * one.norm()
