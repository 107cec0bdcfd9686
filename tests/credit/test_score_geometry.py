"""Score vectors of every token against those of autograd, written out one token at a time."""

import math

import pytest
import torch
from tests import oracles
from tests.conftest import ARCHITECTURES

from valuegrad.credit.score_geometry import (
    centred_head,
    final_geometry,
    mean_costate_error,
    site_geometry,
)
from valuegrad.finite_groups import group_advantages
from valuegrad.methods import advantages

PROMPT = [5, 9, 33, 7]


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.fixture
def known(policy):
    """The oracle's distribution, rewards, scores and G by site, and the mean row of the head."""

    def build(architecture):
        chosen = policy(architecture)
        p = oracles.distribution(chosen.model, PROMPT)
        # Few enough different rewards for every value of an advantage to be kept apart.
        rewards = torch.randn(20, generator=torch.Generator().manual_seed(3)).double()
        rewards = rewards[torch.arange(len(p)) % 20]
        scores = oracles.scores(chosen.model, PROMPT, (0, "final"))
        return chosen, p, rewards, scores, (p @ chosen.head)[None]

    return build


def check(found, scores, p, rewards):
    gradient = (p * rewards) @ scores
    same(found.squared_norm[0], scores.square().sum(1))
    same(found.projection[0], scores @ gradient)
    same(found.value_gradient[0], gradient)
    values, kinds = torch.unique(rewards, return_inverse=True)
    mass = torch.zeros_like(values).scatter_add_(0, kinds, p)
    for method in oracles.METHODS:
        (given,) = oracles.finite_advantages(method, [p], [rewards], 2)
        distance = sum(
            float(p[a]) * chance * float((advantage * scores[a] - gradient).norm())
            for a, reward in enumerate(rewards.tolist())
            for chance, advantage in given[reward]
        )
        group = group_advantages(values, mass[None], method, 2, 1)
        error = mean_costate_error(p[None], kinds[None], found, group)
        assert float(error) == pytest.approx(distance, rel=1e-9)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_at_final_in_closed_form(known, architecture):
    chosen, p, rewards, scores, mean_row = known(architecture)
    gradient = ((p * rewards) @ scores["final"])[None]
    found = final_geometry(centred_head(chosen.head), mean_row, gradient)
    check(found, scores["final"], p, rewards)


@pytest.mark.parametrize("architecture", ["olmo2", "gpt2"])
def test_below_by_the_jacobian_to_final(known, architecture):
    chosen, p, rewards, scores, mean_row = known(architecture)
    # s_a at the site is Jᵀ s_a at "final" for every token a, which determines J.
    jacobian = torch.linalg.lstsq(scores["final"], scores[0]).solution
    gradient = ((p * rewards) @ scores["final"])[None]
    found = site_geometry(chosen.head, mean_row, gradient, jacobian[None])
    check(found, scores[0], p, rewards)


def test_norms_survive_a_common_part_of_the_rows():
    """Rows that agree in their first digits, in float32: what centring is for."""
    generator = torch.Generator().manual_seed(1)
    apart = torch.randn(50, 8, generator=generator)
    head = 1000 + apart
    p = torch.randn(50, generator=generator).softmax(0)
    mean_row = (p @ head)[None]
    found = final_geometry(centred_head(head), mean_row, torch.zeros_like(mean_row))
    expected = (head.double() - mean_row.double()).square().sum(1)
    torch.testing.assert_close(found.squared_norm[0], expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("chance", [1e-3, 1e-8, 1e-10])
def test_rare_groups_count_where_success_is_rare(chance):
    """Groups with two successes among the others have chance p² and move all by as much as G."""
    p = torch.tensor([[chance, 0.4, 0.6 - chance]], dtype=torch.float64)
    head = torch.tensor([[1.0, 0.2], [-0.3, 1.0], [0.2, -0.7]], dtype=torch.float64)
    mean_row, kinds = p @ head, torch.tensor([[1, 0, 0]])
    gradient = chance * (head[:1] - mean_row)
    geometry = final_geometry(centred_head(head), mean_row, gradient)
    mass = torch.tensor([[1 - chance, chance]], dtype=torch.float64)
    group = group_advantages(torch.tensor([0.0, 1.0]).double(), mass, "grpo", 4)
    expected = 0.0
    for k in range(4):
        ways = math.comb(3, k) * chance**k * (1 - chance) ** (3 - k)
        for row, own in enumerate((1.0, 0.0, 0.0)):
            rewards = torch.tensor([[own, *[1.0] * k, *[0.0] * (3 - k)]], dtype=torch.float64)
            distance = advantages(rewards)[0, 0] * (head[row] - mean_row[0]) - gradient[0]
            expected += ways * float(p[0, row] * distance.norm())
    error = float(mean_costate_error(p, kinds, geometry, group))
    assert error == pytest.approx(expected, rel=1e-9, abs=0)
