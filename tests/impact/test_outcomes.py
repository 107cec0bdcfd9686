"""Rewards on any scale: which values, what is a success, and which tilt says nothing of them."""

import dataclasses
import math

import pytest
import torch
from tests import letters

from valuegrad.errors import UserError
from valuegrad.impact import sampled, vocabulary
from valuegrad.impact.outcomes import (
    check_alpha,
    half_way,
    levels,
    nearest,
    success,
    two_values,
)
from valuegrad.rewards.function import FunctionReward
from valuegrad.sampler import rollouts


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("values", "least", "middle"),
    [
        ((0.0, 1.0), 1.0, 0.5),
        ((-1.0, 1.0), 1.0, 0.0),
        ((0.0, 100.0), 100.0, 50.0),
        ((0.2, 0.4), 0.4, 0.3),
        ((0.6, 1.0), 1.0, 0.8),
        ((0.3,), 0.3, 0.15),
        ((0.0, 0.25, 1.0), 1.0, 0.5),
        ((0.0,), math.inf, 0.5),
        ((1.0,), 1.0, 0.5),
    ],
)
def test_what_is_a_success_and_what_is_half_of_it(values, least, middle):
    assert success(tensor(*values)) == least
    assert half_way(tensor(*values)) == pytest.approx(middle)


def test_graded_rewards_outside_zero_and_one_have_no_success():
    assert math.isnan(success(tensor(-0.5, 0.5, 1.0)))
    assert math.isnan(success(tensor(0.0, 1.0, 2.0)))
    assert half_way(tensor(0.0, 1.0, 3.0)) == 1.5


def test_two_values_and_levels():
    assert two_values(tensor(1, 0, 1)) == (0.0, 1.0)
    assert two_values(tensor(0.5, 0.5)) == (0.0, 0.5)
    assert two_values(tensor(-1, -1)) == (-1.0, 0.0)
    assert two_values(tensor(0, 1, 2)) is None
    assert levels(tensor(3, 1, 1)).tolist() == [1, 3]
    many = torch.linspace(0, 1, 1000, dtype=torch.float64)
    found = levels(many, 11)
    assert found.tolist() == pytest.approx([i / 10 for i in range(11)], abs=1e-3)
    kinds = nearest(found, many)
    assert (found[kinds] - many).abs().max() <= 0.05 + 1e-3
    # One that is far off leaves the others apart.
    off = torch.cat((many, tensor(-100)))
    assert len(levels(off, 11).unique()) == 11
    assert (levels(off, 11) > -1).sum() == 10


def test_the_default_tilt_is_refused_on_another_scale():
    check_alpha(tensor(-1, 1), 5.0)
    check_alpha(tensor(0, 100), 0.05)
    check_alpha(tensor(0, 1), 100.0)
    message = (
        r"alpha: got the default, 5, with rewards from 0 to 100; wanted a tilt on the rewards' "
        r"scale, about 5 divided by their span\. Fix: pass 0\.05"
    )
    with pytest.raises(UserError, match=message):
        check_alpha(tensor(0, 100), 5.0)


def scaled(drawn, low, high):
    """The same rollouts, with 0 and 1 replaced."""
    return dataclasses.replace(drawn, rewards=low + (high - low) * drawn.rewards)


@pytest.mark.parametrize("method", ["grpo", "dr_grpo", "rloo", "ppo"])
def test_two_rewards_of_any_values_are_measured_as_zero_and_one_are(method):
    """From rollouts, r = −1 + 2b: Σ is four times as large, and H at α twice that of b at 2α."""
    policy = letters.policy("gpt2", scale=0.35)
    prompts = letters.varied("gpt2", scale=0.35).some(range(20))
    drawn = rollouts(policy, prompts, 24, seed=0)
    settings = {"methods": [method], "group_size": 6, "prompts_per_update": 4}
    plain, _ = sampled.measure(policy, drawn, alpha=4.0, **settings)
    signs, _ = sampled.measure(policy, scaled(drawn, -1, 1), alpha=2.0, **settings)
    one, other = plain[method].rows, signs[method].rows
    ratio = {"sigma": 4.0, "headroom": 2.0, "reward_variance": 4.0, "pass_at_k": 1.0}
    ratio["zero_spread"] = 1.0
    for name, factor in ratio.items():
        torch.testing.assert_close(getattr(other, name), factor * getattr(one, name))
    torch.testing.assert_close(other.reward, 2 * one.reward - 1)
    # Of normalised advantages costates stay as they are, up to ξ, and G is twice as long.
    factor = 2.0 if method in ("grpo", "ppo") else 4.0
    torch.testing.assert_close(other.alignment, factor * one.alignment, rtol=1e-3, atol=1e-9)
    assert signs[method].middle == 0.0


def test_the_headroom_of_signs_is_right_where_success_is_rare():
    """At p = 0.005; when ±1 were not taken for two values it came out far too small."""
    generator = torch.Generator().manual_seed(0)
    hit = torch.rand(4000, 32, generator=generator) < 0.005
    values = torch.where(hit, 1.0, -1.0).double()
    p, alpha = 0.005, 2.5
    truth = math.log(p * math.exp(alpha) + (1 - p) * math.exp(-alpha)) / alpha - (2 * p - 1)
    found = sampled.sampled_headrooms(values, alpha, two_values(values)).mean()
    assert float(found) == pytest.approx(truth, rel=0.1)
    graded = sampled.sampled_headrooms(values, alpha, None).mean()
    assert float(graded) < 0.8 * truth


def test_rewards_of_another_scale_reach_the_check(policy, task):
    percent = FunctionReward(
        "tests:percent", lambda completions, **_: [100.0 * (len(c) % 3 == 0) for c in completions]
    )
    chosen = dataclasses.replace(task("olmo2"), reward=percent)
    with pytest.raises(UserError, match="alpha: got the default, 5, with rewards from 0 to 100"):
        vocabulary.measure(policy("olmo2"), chosen)
    found = vocabulary.measure(policy("olmo2"), chosen, methods=["grpo"], alpha=0.05)["grpo"]
    assert found.middle == 50.0
    assert 0 < found.means.pass_at_k <= 1
