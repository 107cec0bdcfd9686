"""Advantages over finite groups against the enumeration of all of them, and their limits."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from tests import oracles

from valuegrad import finite_groups as module
from valuegrad.errors import UserError
from valuegrad.finite_groups import group_advantages, limit_advantages

VALUES = {"indicator": [0.0, 1.0], "signs": [-1.0, 1.0], "graded": [-0.4, 0.3, 2.0]}


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def distributions(kinds, prompts=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(prompts, kinds, generator=generator, dtype=torch.float64) + 0.05
    return p / p.sum(1, keepdim=True)


def enumerated(values, p, method, group_size, prompts=1):
    rewards = [tensor(values)] * len(p)
    return oracles.finite_advantages(method, list(p), rewards, group_size, prompts)


@pytest.mark.parametrize("reward", VALUES)
@pytest.mark.parametrize("method", oracles.METHODS)
@pytest.mark.parametrize("group_size", [2, 3, 4, 5, 6])
def test_the_mean_over_all_groups(method, group_size, reward):
    """Ā(r), and from it E[λ̂] = Σ_a p_a Ā(r_a) s_a of a vocabulary with random scores."""
    values, prompts = VALUES[reward], 2 if method == "ppo" and group_size < 4 else 1
    p = distributions(len(values))
    known = enumerated(values, p, method, group_size, prompts)
    found = group_advantages(tensor(values), p, method, group_size, prompts)
    scores = torch.randn(len(values), 3, generator=torch.Generator().manual_seed(1)).double()
    for q, given in enumerate(known):
        known_mean = tensor([math.fsum(w * a for w, a in given[v]) for v in values])
        assert (found.expected[q] - known_mean).abs().max() < 1e-12
        costate = sum(
            p[q, k] * w * a * scores[k] for k, v in enumerate(values) for w, a in given[v]
        )
        expected = (p[q] * found.expected[q]) @ scores
        assert (expected - costate).abs().max() < 1e-12
        gradient = (p[q] * tensor(values)) @ (scores - p[q] @ scores)
        if found.affine:
            centred = (p[q] * found.expected[q]) @ (scores - p[q] @ scores)
            assert (found.slope[q] * gradient - centred).abs().max() < 1e-12


@pytest.mark.parametrize("reward", VALUES)
@pytest.mark.parametrize("method", oracles.METHODS)
def test_the_distribution_over_all_groups(method, reward):
    """Moments of Â given the reward, exact where its values are kept apart."""
    values, prompts = VALUES[reward], 2 if method == "ppo" else 1
    p = distributions(len(values))
    found = group_advantages(tensor(values), p, method, 3, prompts)
    torch.testing.assert_close(found.weights.sum(2), torch.ones_like(p))
    for q, given in enumerate(enumerated(values, p, method, 3, prompts)):
        for k, value in enumerate(values):
            for function in (abs, math.exp, lambda a: math.hypot(a, 0.3)):
                wanted = sum(w * function(a) for w, a in given[value])
                nodes = zip(found.nodes[q, k].tolist(), found.weights[q, k].tolist(), strict=True)
                assert sum(w * function(a) for a, w in nodes) == pytest.approx(wanted, rel=1e-12)


def test_psi_in_its_limits():
    """(G − 1)/√G at p → 0, where 1/σ diverges; 1/σ at large G; symmetric in p."""
    zero_one = tensor([0.0, 1.0])
    p = torch.tensor([1e-9, 0.3, 0.7], dtype=torch.float64)
    both = torch.stack((1 - p, p), 1)
    for size in (2, 4, 8, 16, 64):
        psi = group_advantages(zero_one, both, "grpo", size).slope
        rare = (size - 1) / math.sqrt(size) / (1 + oracles.XI * math.sqrt(size))
        assert float(psi[0]) == pytest.approx(rare, rel=1e-6)
        assert float(psi[1]) == pytest.approx(float(psi[2]), rel=1e-12)
        dr = group_advantages(zero_one, both, "dr_grpo", size).slope
        assert dr.tolist() == pytest.approx([1 - 1 / size] * 3, rel=1e-12)
    large = group_advantages(zero_one, both, "grpo", 20_000).slope
    limit = limit_advantages(zero_one, both, "grpo").slope
    assert large[1:].tolist() == pytest.approx(limit[1:].tolist(), rel=1e-4)
    assert limit[0] > 7000
    assert large[0] < 200


def test_psi_by_the_binomial_sum_of_the_theory():
    size, p = 8, np.array([0.01, 0.18, 0.5, 0.95])
    k = np.arange(1, size)
    deviation = np.sqrt(k * (size - k) / (size * (size - 1)))
    kernel = k * (size - k) / (size**2 * (deviation + oracles.XI))
    expected = (binom.pmf(k, size, p[:, None]) * kernel).sum(1) / (p * (1 - p))
    both = torch.from_numpy(np.stack((1 - p, p), 1))
    found = group_advantages(tensor([0.0, 1.0]), both, "grpo", size).slope
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-12)


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_counting_enumerating_and_drawing_agree(method, monkeypatch):
    """The three ways in which the others are summed over; draws to their own accuracy."""
    values, p = tensor([0.0, 0.2, 1.0]), distributions(3, prompts=4)
    counted = group_advantages(values, p, method, 5, 1).expected
    one_by_one = [mean(*part) for part in module._enumerated(values, p, p, method, 5, 1)]
    torch.testing.assert_close(counted, torch.cat(one_by_one), rtol=1e-12, atol=1e-14)
    monkeypatch.setattr(module, "LATTICE", 0)
    drawn = group_advantages(values, p, method, 5, 1).expected
    assert 0 < (drawn - counted).abs().max() < 0.02
    monkeypatch.undo()
    whole = group_advantages(values, p, "ppo", 4, 3).expected
    monkeypatch.setattr(module, "LATTICE", 0)
    drawn = group_advantages(values, p, "ppo", 4, 3).expected
    assert 0 < (drawn - whole).abs().max() < 0.02


def mean(weights, found):
    return (weights * found).sum(2) / weights.sum(2)


def test_many_values_of_an_advantage_are_pooled_with_their_means():
    values, p = tensor([0.0, 0.2, 1.0]), distributions(3, prompts=3)
    found = group_advantages(values, p, "grpo", 16)
    assert found.nodes.shape[2] == module.POOLED
    torch.testing.assert_close((found.weights * found.nodes).sum(2), found.expected)
    spread = (found.weights * (found.nodes - found.expected[:, :, None]).square()).sum(2).sqrt()
    weights, every = next(module._counted(values, p, p, "grpo", 16, 1))
    whole = (weights * (every - found.expected[:, :, None]).square()).sum(2).sqrt()
    # What a norm over the distribution loses by the pooling.
    assert ((spread - whole).abs() < 0.03 * whole).all()


def test_one_reward_gives_no_advantage_but_its_own():
    p = torch.ones(2, 1, dtype=torch.float64)
    for method in oracles.METHODS:
        found = group_advantages(tensor([0.7]), p, method, 4)
        expected = 0.7 if method == "reinforce" else 0.0
        assert found.expected.flatten().tolist() == pytest.approx([expected] * 2)


def test_what_is_refused():
    zero_one, p = tensor([0.0, 1.0]), torch.tensor([[0.4, 0.6]])
    with pytest.raises(UserError, match="group_size=1, prompts_per_update=1"):
        group_advantages(zero_one, p, "grpo", 1, 1)
    with pytest.raises(UserError, match="rows that sum to 1"):
        group_advantages(zero_one, p / 2)


@pytest.mark.parametrize("low", [0.0, 1e4, 1e6, -1e6])
def test_an_offset_of_the_rewards_changes_nothing(low):
    p = tensor([[0.3, 0.7]])
    for method in ("grpo", "dr_grpo", "rloo", "ppo"):
        plain = group_advantages(tensor([0.0, 1.0]), p, method, 6, 2)
        moved = group_advantages(tensor([low, low + 1]), p, method, 6, 2)
        torch.testing.assert_close(moved.expected, plain.expected, rtol=1e-9, atol=1e-12)
        assert moved.values.tolist() == [low, low + 1]


def test_large_groups_and_batches_are_counted_for_two_rewards_and_drawn_for_more():
    """16 × 2,048 actions, and more numbers than a Sobol sequence has."""
    p = tensor([[0.9, 0.1], [0.5, 0.5]])
    zero_one = tensor([0.0, 1.0])
    found = group_advantages(zero_one, p, "ppo", 16, 2048)
    limit = limit_advantages(zero_one, p, "ppo")
    torch.testing.assert_close(found.slope, limit.slope, rtol=1e-3, atol=0)
    many = tensor([0.0, 0.1, 0.2, 0.4, 0.7, 1.0])
    shares = distributions(6)
    drawn = group_advantages(many, shares, "ppo", 700, 32)
    limit = limit_advantages(many, shares, "ppo")
    assert (drawn.expected - limit.expected).abs().max() < 0.02
