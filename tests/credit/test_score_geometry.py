"""Score vectors of every token against those of autograd, written out one token at a time."""

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
from valuegrad.methods import population_advantages

PROMPT = [5, 9, 33, 7]


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.fixture
def known(policy):
    """The oracle's distribution, rewards, scores and G by site, and the mean row of the head."""

    def build(architecture):
        chosen = policy(architecture)
        p = oracles.distribution(chosen.model, PROMPT)
        rewards = torch.randn(len(p), generator=torch.Generator().manual_seed(3)).double()
        scores = oracles.scores(chosen.model, PROMPT, (0, "final"))
        return chosen, p, rewards, scores, (p @ chosen.head)[None]

    return build


def check(found, scores, p, rewards):
    gradient = (p * rewards) @ scores
    same(found.squared_norm[0], scores.square().sum(1))
    same(found.projection[0], scores @ gradient)
    same(found.value_gradient[0], gradient)
    for method in oracles.METHODS:
        mean, deviation = oracles.mean_and_deviation(p, rewards)
        moments = torch.tensor([[mean], [deviation**2]], dtype=torch.float64)
        population = population_advantages(*moments, method)
        (advantages,) = oracles.population_advantages(method, [p], [rewards])
        distance = (advantages[:, None] * scores - gradient).norm(dim=1)
        same(mean_costate_error(p[None], rewards[None], found, population)[0], p @ distance)


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
