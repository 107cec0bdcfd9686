"""Unbiased norms against the sum over distinct rollouts, the true norm, and the biased plug-in."""

import itertools

import pytest
import torch

from valuegrad.credit.squared_norm import inner_product, squared_norm
from valuegrad.errors import UserError

GROUPS, SIZE = 4000, 8


@pytest.fixture(scope="module")
def drawn():
    """Groups of rollouts of one state with 40 completions: scores of mean zero, and rewards."""
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(40, generator=generator, dtype=torch.float64).mul(2).softmax(0)
    scores = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    scores -= p @ scores
    rewards = torch.randn(40, generator=generator, dtype=torch.float64)
    which = torch.multinomial(p, GROUPS * SIZE, replacement=True, generator=generator)
    return scores, rewards, p, which.view(GROUPS, SIZE)


def z_score(estimates, truth):
    return float((estimates.mean() - truth) / (estimates.std() / len(estimates) ** 0.5))


def test_the_squared_norm_is_unbiased_and_the_plug_in_is_not(drawn):
    scores, rewards, p, which = drawn
    truth = ((p * rewards) @ scores).square().sum()
    s, r = scores[which], rewards[which]
    assert abs(z_score(squared_norm(s, r), truth)) < 4
    centred = (r - r.mean(1, keepdim=True)) * SIZE / (SIZE - 1)
    plug_in = (centred[..., None] * s).mean(1).square().sum(1)
    assert z_score(plug_in, truth) > 4


def test_the_inner_product_of_two_signals_is_unbiased(drawn):
    scores, rewards, p, which = drawn
    other = rewards.square() - rewards
    truth = ((p * rewards) @ scores) @ ((p * other) @ scores)
    found = inner_product(scores[which], rewards[which], other[which])
    assert abs(z_score(found, truth)) < 4
    swapped = inner_product(scores[which], other[which], rewards[which])
    torch.testing.assert_close(found, swapped)


def test_squared_norm_equals_the_sum_over_distinct_indices():
    """Cov ⊗ Cov as a U-statistic: the mean over all ordered quadruples of its kernel."""
    generator = torch.Generator().manual_seed(3)
    s = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    r = torch.randn(6, generator=generator, dtype=torch.float64)
    quadruples = list(itertools.permutations(range(6), 4))
    kernel = [
        (r[i] - r[j]) * (r[k] - r[m]) * (s[i] - s[j]) @ (s[k] - s[m]) / 4
        for i, j, k, m in quadruples
    ]
    expected = sum(kernel) / len(quadruples)
    assert squared_norm(s, r).item() == pytest.approx(expected.item(), rel=1e-12)


def test_equal_rewards_give_zero():
    s = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    assert squared_norm(s, torch.full((8,), 0.7)).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: squared_norm(torch.ones(3, 2), torch.ones(3)), "scores: got 3 rollouts.*least 4"),
        (lambda: squared_norm(torch.ones(4, 2), torch.ones(5)), r"rewards: got shape \(5,\)"),
        (
            lambda: squared_norm(torch.ones(4, 2), torch.full((4,), torch.inf)),
            "rewards.*not finite",
        ),
        (lambda: squared_norm(torch.full((4, 2), torch.nan), torch.ones(4)), "scores.*not finite"),
        (
            lambda: inner_product(torch.ones(4, 2), torch.ones(4), torch.ones(3)),
            "second: got shape",
        ),
    ],
)
def test_bad_input(unchecked, call, message):
    with pytest.raises(UserError, match=message):
        call()
