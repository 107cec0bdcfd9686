"""Whatever measures a task, training prompts form the probe's update and held-out ones judge it."""

import dataclasses

import numpy as np
import pytest
from tests import letters

from valuegrad.budget import Budget
from valuegrad.impact.estimators import estimate
from valuegrad.impact.readiness import readiness
from valuegrad.impact.settings import Sampling

BUDGET = Budget(learning_rate=1e-3)
WAYS = {
    "vocabulary": ("qwen3", 0.4, 1, None, "auto"),
    "teacher-forced": ("llama", 0.6, 3, "\n", "auto"),
    "sampled": ("llama", 0.6, 3, "\n", "sampled"),
}


def probed(way, train, evaluation, probe_prompts=4, steps=2):
    architecture, scale, limit, stop, estimator = WAYS[way]
    policy = letters.policy(architecture, scale=scale)
    examples = letters.varied(architecture, limit, stop, scale=scale).examples
    task = letters.task(["a"], prompts=["a"], max_tokens=limit, stop=stop)
    task = dataclasses.replace(task, train=examples[train], evaluation=examples[evaluation])
    sampling = Sampling(estimator, rollouts=64, probe_steps=steps, probe_prompts=probe_prompts)
    found = estimate(
        policy, task, BUDGET, distance=1e-2, site="final", alpha=5.0, sampling=sampling
    )
    assert found.estimator == way
    return found


@pytest.mark.parametrize("way", WAYS)
def test_further_held_out_prompts_change_nothing_of_the_others(way):
    few = probed(way, slice(0, 6), slice(10, 16))
    many = probed(way, slice(0, 6), slice(10, 24))
    np.testing.assert_allclose(many.change[:6], few.change, rtol=1e-9, atol=1e-13)
    assert many.probe.gradient_norm == pytest.approx(few.probe.gradient_norm, nan_ok=True)
    assert np.abs(few.change).max() > 1e-6


@pytest.mark.parametrize("way", WAYS)
def test_an_update_follows_its_training_prompts(way):
    one = probed(way, slice(0, 6), slice(10, 16))
    other = probed(way, slice(24, 30), slice(10, 16))
    assert np.abs(one.change - other.change).max() > 0.1 * np.abs(one.change).max()


@pytest.mark.parametrize("way", WAYS)
def test_prompts_gain_more_from_an_update_of_their_own(way):
    """What a score must not promise: the update's own prompts rise the most."""
    own = probed(way, slice(0, 12), slice(0, 12), probe_prompts=12)
    others = probed(way, slice(12, 24), slice(0, 12), probe_prompts=12)
    assert own.change.mean() > 1.5 * others.change.mean()
    # The rewards before the move are measured on the same footing as those after it.
    np.testing.assert_array_equal(own.probe.reward_before, others.probe.reward_before)


@pytest.mark.parametrize("way", WAYS)
def test_the_policy_is_as_it_was(way):
    architecture, scale, *_ = WAYS[way]
    state = letters.policy(architecture, scale=scale).model.state_dict()
    before = {name: p.clone() for name, p in state.items()}
    probed(way, slice(0, 6), slice(10, 16))
    assert all((before[name] == p).all() for name, p in state.items())


@pytest.mark.parametrize("way", WAYS)
def test_readiness_is_of_every_token(way):
    """Signal × headroom: Eq. 24 for one token, reward times advantage for more of them."""
    impact = probed(way, slice(0, 6), slice(10, 24)).impacts["grpo"]
    found = readiness(impact, one_token=way == "vocabulary")
    deviation = np.sqrt(impact.rows["reward_variance"])
    longer = deviation**2 / (deviation + 1e-4)
    expected = impact.rows["alignment"] if way == "vocabulary" else longer
    tolerance = 0.2 if way == "sampled" else 1e-9
    np.testing.assert_allclose(found["signal"], expected, rtol=tolerance, atol=0.02 * tolerance)
    np.testing.assert_array_equal(found["readiness"], found["signal"] * impact.rows["headroom"])
    assert probed(way, slice(0, 6), slice(10, 24)).one_token == (way == "vocabulary")
