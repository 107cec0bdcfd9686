"""Λ_sample from Gram matrices against loops over pairs of rollouts."""

import itertools
import math

import pytest
import torch

from valuegrad.finite_groups import GroupAdvantages
from valuegrad.impact.costate_error import costate_error, two_valued_costate_error


def drawn(seed, n, width=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator, dtype=torch.float64)


def advantages(rewards, slope, baseline):
    """Two values of each reward's advantage: half as much, and half as much again."""
    values = torch.unique(rewards)
    found = (slope * (values - baseline))[None]
    nodes = torch.stack((found / 2, 1.5 * found), 2)
    weights = torch.tensor([0.25, 0.75], dtype=torch.float64).expand_as(nodes)
    return GroupAdvantages(values, found, nodes, weights, torch.tensor([slope]).double(), True)


def test_lambda_leaves_the_rollout_out_of_the_gradient_that_it_meets():
    r, s = drawn(2, 8)[:, 0], drawn(3, 8)
    slope, baseline, squared = 1.7, 0.2, 0.9
    errors = []
    for i in range(8):
        others = [j for j in range(8) if j != i]
        pairs = list(itertools.permutations(others, 2))
        gradient = sum((r[j] - r[k]) * (s[j] - s[k]) / 2 for j, k in pairs) / len(pairs)
        for factor, weight in ((0.5, 0.25), (1.5, 0.75)):
            costate = factor * slope * (r[i] - baseline) * s[i]
            error = float(costate @ costate - 2 * costate @ gradient + squared)
            errors.append(weight * math.sqrt(max(error, 0)))
    expected = math.sqrt(squared) * sum(errors) / 8
    found = costate_error(
        (s @ s.T)[None],
        r[None],
        torch.tensor([squared], dtype=torch.float64),
        torch.unique(r, return_inverse=True)[1][None],
        advantages(r, slope, baseline),
    )
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("successes", [2, 3, 5, 6])
def test_two_valued_rewards_by_loops(successes):
    """Mean score vectors given either reward, without the rollout that they meet."""
    n, p, slope, baseline, step = 8, 0.4, 1.9, 0.35, 2.0
    s = drawn(5, n)
    s[:successes] += 2.0
    r = [1.0] * successes + [0.0] * (n - successes)
    hits, misses = range(successes), range(successes, n)

    def mean(vectors):
        return sum(vectors) / len(vectors)

    def inner(one, other):
        """The mean inner product of different rollouts."""
        return mean([float(s[i] @ s[j]) for i in one for j in other if i != j])

    distance = inner(hits, hits) - 2 * inner(hits, misses) + inner(misses, misses)
    norm = step * p * (1 - p) * math.sqrt(max(distance, 0))
    errors = []
    for i in range(n):
        rest = [mean([s[j] for j in group if j != i]) for group in (hits, misses)]
        gradient = step * p * (1 - p) * (rest[0] - rest[1])
        errors.append(0.0)
        for factor, weight in ((0.5, 0.25), (1.5, 0.75)):
            costate = factor * slope * (step * r[i] - baseline) * s[i]
            squared = float(costate @ costate - 2 * costate @ gradient) + norm**2
            errors[-1] += weight * math.sqrt(max(squared, 0))
    expected = p * mean(errors[:successes]) + (1 - p) * mean(errors[successes:])
    # The unbiased estimate of (p (1 − p))²: two successes and two failures in that order.
    ways = math.perm(successes, 2) * math.perm(n - successes, 2) / math.perm(n, 4)
    found = two_valued_costate_error(
        (s @ s.T)[None],
        torch.tensor([r], dtype=torch.float64),
        torch.tensor([p], dtype=torch.float64),
        advantages(torch.tensor([0.0, step]).double(), slope, baseline),
    )
    assert norm > 0
    assert found.item() == pytest.approx(ways / (p * (1 - p)) ** 2 * norm * expected, rel=1e-11)


@pytest.mark.parametrize("successes", [0, 1, 7, 8])
def test_fewer_than_two_of_either_reward_have_none(successes):
    s = drawn(1, 8)
    r = torch.tensor([[1.0] * successes + [0.0] * (8 - successes)], dtype=torch.float64)
    for p in (0.0, 0.3, 1.0):
        given = torch.tensor([p], dtype=torch.float64)
        group = advantages(torch.tensor([0.0, 1.0]).double(), 2.0, p)
        found = two_valued_costate_error((s @ s.T)[None], r, given, group)
        assert found.item() == 0
