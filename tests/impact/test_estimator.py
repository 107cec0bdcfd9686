"""Whatever measures a task, training prompts form the probe's update and held-out ones judge it."""

import pytest
import torch
from tests import letters

from valuegrad.budget import Budget
from valuegrad.errors import UserError
from valuegrad.impact import sampled, teacher_forced, vocabulary
from valuegrad.impact.estimator import estimator, update_rows
from valuegrad.impact.probe import move
from valuegrad.impact.settings import Sampling
from valuegrad.impact.update import clipped
from valuegrad.prompts import TaskPrompts
from valuegrad.rewards.function import FunctionReward
from valuegrad.sampler import rollouts

BUDGET = Budget(learning_rate=1e-3, group_size=8, prompts_per_update=4, max_gradient_norm=0.05)
SIZES = {"group_size": 8, "prompts_per_update": 4}
WAYS = {
    "vocabulary": ("qwen3", 0.4, 1, None, "auto"),
    "teacher-forced": ("llama", 0.6, 3, "\n", "auto"),
    "sampled": ("llama", 0.6, 3, "\n", "sampled"),
}


def made(way, train, evaluation, probe_prompts=4, steps=2, **settings):
    """The estimator of that name on some prompts, and the policy."""
    architecture, scale, limit, stop, name = WAYS[way]
    policy = letters.policy(architecture, scale=scale)
    every = letters.varied(architecture, limit, stop, scale=scale)
    rows = range(len(every))
    prompts = TaskPrompts(every.some(rows[train]), every.some(rows[evaluation]))
    options = {"rollouts": 64, "probe_steps": steps, "probe_prompts": probe_prompts}
    found = estimator(policy, prompts, BUDGET, Sampling(name, **(options | settings)))
    assert found.name == way
    return found, prompts, policy


def probed(way, *splits, **settings):
    found, _, _ = made(way, *splits, **settings)
    return move(found, found.rewards(), [1e-2])


@pytest.mark.parametrize("way", WAYS)
def test_further_held_out_prompts_change_nothing_of_the_others(way):
    few = probed(way, slice(0, 6), slice(10, 16))
    many = probed(way, slice(0, 6), slice(10, 24))
    torch.testing.assert_close(many.change[:, :6], few.change, rtol=1e-9, atol=1e-13)
    assert many.gradient_norm == pytest.approx(few.gradient_norm, nan_ok=True)
    assert few.change.abs().max() > 1e-6


@pytest.mark.parametrize("way", WAYS)
def test_an_update_follows_its_training_prompts(way):
    one = probed(way, slice(0, 6), slice(10, 16))
    other = probed(way, slice(24, 30), slice(10, 16))
    assert (one.change - other.change).abs().max() > 0.1 * one.change.abs().max()


@pytest.mark.parametrize("way", WAYS)
def test_prompts_gain_more_from_an_update_of_their_own(way):
    """What a score must not promise: the update's own prompts rise the most."""
    own = probed(way, slice(0, 12), slice(0, 12), probe_prompts=12)
    others = probed(way, slice(12, 24), slice(0, 12), probe_prompts=12)
    assert own.change.mean() > 1.5 * others.change.mean()
    # The rewards before the move are measured on the same footing as those after it.
    assert torch.equal(own.reward_before, others.reward_before)


@pytest.mark.parametrize("way", WAYS)
def test_the_policy_is_as_it_was(way):
    architecture, scale, *_ = WAYS[way]
    state = letters.policy(architecture, scale=scale).model.state_dict()
    before = {name: p.clone() for name, p in state.items()}
    probed(way, slice(0, 6), slice(10, 16))
    assert all((before[name] == p).all() for name, p in state.items())


@pytest.mark.parametrize("way", WAYS)
def test_rewards_are_those_that_the_measurement_holds(way):
    """What a move is judged against comes for nothing with the measurement."""
    found, _, _ = made(way, slice(0, 6), slice(10, 24))
    measured = found.measure()
    rewards = measured.impacts["ppo"].rows.reward
    torch.testing.assert_close(found.rewards(), rewards, rtol=1e-13, atol=0)
    assert (measured.drawn is None) == (way != "sampled")
    assert (measured.logp_difference is None) == (way != "sampled")


def test_each_way_is_its_module():
    """The measurement and the first update are those of the module, of the chosen prompts."""
    for way, module in (("vocabulary", vocabulary), ("teacher-forced", teacher_forced)):
        found, prompts, policy = made(way, slice(0, 8), slice(10, 24))
        assert (found.probe_prompts, found.probe_steps) == (4, 2)
        expected = module.measure(policy, prompts.evaluation, **SIZES)
        assert found.measure().impacts["grpo"].means == expected["grpo"].means
        chosen = prompts.train.some(update_rows(8, 14, 4))
        for step in (0, 1):
            first = found.update(step).gradients
            formed = module.update(policy, chosen, "grpo", **SIZES)
            # Longer than RL's limit, and scaled down to it.
            assert formed.gradient_norm > 0.05
            for a, b in zip(first, clipped(formed, 0.05).gradients, strict=True):
                assert torch.equal(a, b)


def test_rollouts_of_every_use_have_a_seed_of_their_own():
    found, prompts, policy = made(
        "sampled", slice(0, 8), slice(10, 24), rollouts=16, rollout_seed=3, branch=2
    )
    measured = found.measure()
    drawn = rollouts(policy, prompts.evaluation, 16, seed=12)
    assert measured.drawn.completions == drawn.completions
    assert torch.equal(found.rewards(), drawn.rewards.mean(1))
    chosen = prompts.train.some(update_rows(8, 14, 4))
    learnt = rollouts(policy, chosen, 16, seed=13)
    for step, update in ((0, sampled.update), (1, sampled.reweighted_update)):
        first = found.update(step).gradients
        formed = clipped(update(policy, learnt, "grpo", 8, 4, 3), 0.05)
        for a, b in zip(first, formed.gradients, strict=True):
            assert torch.equal(a, b)
    # Deeper states change what rests on gradients, and nothing of the rewards.
    plain, _, _ = made("sampled", slice(0, 8), slice(10, 24), rollouts=16, rollout_seed=3)
    one, other = (m.impacts["grpo"].means for m in (measured, plain.measure()))
    assert one.sigma != other.sigma
    assert (one.reward_before, one.headroom) == (other.reward_before, other.headroom)


def test_below_final_teacher_forcing_draws_for_lambda_alone():
    architecture, scale, limit, stop, _ = WAYS["teacher-forced"]
    policy = letters.policy(architecture, scale=scale)
    few = letters.varied(architecture, limit, stop, scale=scale).some(range(6))
    way = estimator(policy, TaskPrompts(few, few), BUDGET, Sampling(rollouts=16), site=0)
    measured = way.measure()
    assert measured.drawn.completions == rollouts(policy, few, 16, seed=0).completions
    means = measured.impacts["grpo"].means
    assert means.lambda_sample > 0
    assert means.sigma == teacher_forced.measure(policy, few, site=0)["grpo"].means.sigma


def test_a_closed_form_that_is_none_is_refused():
    policy = letters.policy("llama")
    graded = FunctionReward("tests:f", lambda completions, **_: [0.5] * len(completions))
    prompts = letters.asked(policy, letters.task(("a", "b", "c"), reward=graded))
    both = TaskPrompts(prompts, prompts)
    message = r"estimator: got closed-form for answers of several tokens and a reward of its own"
    with pytest.raises(UserError, match=message):
        estimator(policy, both, BUDGET, Sampling("closed-form"))
    assert estimator(policy, both, BUDGET, Sampling()).name == "sampled"


def test_training_prompts_are_drawn_evenly_and_the_same_ones_every_time():
    places = update_rows(400, 41)
    assert len(places) == len(set(places)) == 21
    assert update_rows(400, 41) == places
    assert update_rows(400, 41, 30)[:21] == places
    assert sorted(update_rows(400, 41, 1000)) == list(range(400))
    # A file may be sorted: the mean place is that of an even draw, 200 to 4 standard errors.
    assert abs(sum(places) / 21 - 200) < 4 * 400 / 12**0.5 / 21**0.5
