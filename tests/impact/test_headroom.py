"""Headroom against Eq. 28 as it stands, and where that overflows."""

import math

import pytest
import torch

from valuegrad.errors import UserError
from valuegrad.impact.headroom import headroom


@pytest.mark.parametrize("alpha", [0.1, 5.0, 20.0])
def test_equals_eq_28(alpha):
    rewards = torch.rand(3, 4, 7, dtype=torch.float64)
    p = torch.rand(3, 4, 7, dtype=torch.float64).softmax(-1)
    mean = (p * rewards).sum(-1)
    expected = (p * (alpha * rewards).exp()).sum(-1).log() / alpha - mean
    torch.testing.assert_close(headroom(rewards, alpha, p), expected, rtol=1e-10, atol=0)
    equal = ((alpha * rewards).exp().mean(-1)).log() / alpha - rewards.mean(-1)
    torch.testing.assert_close(headroom(rewards, alpha), equal, rtol=1e-10, atol=0)


def test_indicator_rewards_have_the_closed_form_down_to_tiny_probabilities():
    for p in (0.5, 1e-3, 1e-9, 1e-15):
        found = headroom(torch.tensor([1.0, 0.0]), 5.0, torch.tensor([p, 1 - p]).double())
        exact = math.log1p(p * math.expm1(5)) / 5 - p
        assert float(found) == pytest.approx(exact, rel=1e-7)


def test_large_rewards_do_not_overflow():
    assert float(headroom(torch.tensor([0.0, 1e6]), 5.0)) == pytest.approx(5e5, rel=1e-3)


def test_equal_rewards_leave_none():
    assert not headroom(torch.ones(2, 5), 5.0).any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((torch.ones(2), 0.0), "alpha: got 0"),
        ((torch.ones(2), math.inf), "alpha: got inf"),
        ((torch.ones(2, 0), 5.0), "rewards: got shape"),
        ((torch.tensor([1.0, math.nan]), 5.0), "1 not finite"),
        ((torch.ones(2), 5.0, torch.tensor([0.5, 0.6])), "probabilities"),
        ((torch.ones(2), 5.0, torch.tensor([1.5, -0.5])), "probabilities"),
    ],
)
def test_bad_input(given, message):
    with pytest.raises(UserError, match=message):
        headroom(*given)
