"""The probe step against an explicit first step of Adam on the enumerated objective."""

import dataclasses
import importlib

import numpy as np
import pytest
import torch
from tests import oracles
from tests.conftest import ARCHITECTURES

from valuegrad.budget import Budget
from valuegrad.errors import UserError
from valuegrad.impact.probe import probe, update_examples
from valuegrad.impact.score import score
from valuegrad.impact.vocabulary import measure
from valuegrad.rewards.function import FunctionReward
from valuegrad.tasks.arithmetic import arithmetic

DISTANCES = (1e-3, 3e-2)
probe_module = importlib.import_module("valuegrad.impact.probe")


@pytest.fixture
def guarded(policy):
    """Return the float64 GPT-2 policy, and fail if the test leaves it changed in a single bit."""
    guarded = policy("gpt2")
    before = {name: p.detach().clone() for name, p in guarded.model.state_dict().items()}
    flags = [p.requires_grad for p in guarded.model.parameters()]
    yield guarded
    after = guarded.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [p.requires_grad for p in guarded.model.parameters()] == flags
    assert all(p.grad is None for p in guarded.model.parameters())
    assert not guarded.model.training


@pytest.fixture
def assert_equals_oracle(policy, task, enumeration, training):
    """Return the comparison, the update formed from all training prompts."""

    def compare(architecture, reward, method, dtype, rtol, own=False):
        learnt, (ids, ps, rs, _) = training(architecture, reward), enumeration(architecture, reward)
        chosen = task(architecture, reward)
        if own:
            learnt, chosen = (ids, rs), dataclasses.replace(chosen, train=chosen.evaluation)
        found = probe(
            policy(architecture, dtype),
            chosen,
            method=method,
            distances=DISTANCES,
            prompts=len(chosen.train),
        )
        before = [float(p @ r) for p, r in zip(ps, rs, strict=True)]
        outcomes = [
            oracles.probe(policy(architecture).model, learnt, (ids, rs), method, distance)
            for distance in DISTANCES
        ]
        assert_same(found, before, outcomes, rtol)

    return compare


def assert_same(found, before, outcomes, rtol):
    assert found.distances == DISTANCES
    before = torch.tensor(before, dtype=torch.float64)
    torch.testing.assert_close(found.reward_before, before, rtol=rtol, atol=1e-12)
    for row, (after, norm) in enumerate(outcomes):
        expected = torch.tensor(after, dtype=torch.float64) - before
        change = found.reward_after[row] - found.reward_before
        torch.testing.assert_close(change.mean(), expected.mean(), rtol=rtol, atol=0)
        torch.testing.assert_close(change, expected, rtol=10 * rtol, atol=rtol * 1e-3)
        assert found.gradient_norm == pytest.approx(norm, rel=rtol)


@pytest.mark.parametrize("method", oracles.METHODS)
@pytest.mark.parametrize("reward", ["exact", "graded"])
@pytest.mark.parametrize("architecture", ["olmo2", "gpt2"])
def test_equals_the_explicit_step(assert_equals_oracle, architecture, reward, method):
    assert_equals_oracle(architecture, reward, method, "float64", rtol=1e-8)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float32_and_every_architecture(assert_equals_oracle, architecture):
    assert_equals_oracle(architecture, "exact", "grpo", "float64", rtol=1e-8)
    # Of a random model's other prompts the update moves next to nothing, a sum that cancels over
    # the parameters: in float32 the prompts learn from themselves.
    assert_equals_oracle(architecture, "exact", "grpo", "float32", rtol=1e-4, own=True)


def test_the_change_is_the_slope_of_the_reward_for_short_moves(policy, task, enumeration, training):
    """To first order ΔR = distance · ⟨∇R, direction⟩, and twice as far brings twice as much."""
    ids, _, rs, _ = enumeration("llama")
    model = policy("llama").model
    update = oracles.conditional_gradient(model, *training("llama"), "grpo")
    slope = sum(
        float((g * u / (u.abs() + 1e-8)).sum())
        for g, u in zip(
            oracles.conditional_gradient(model, ids, rs, "reinforce"), update, strict=True
        )
    )
    count = len(task("llama").train)
    found = probe(
        policy("llama"), task("llama"), method="grpo", distances=[1e-8, 2e-8], prompts=count
    )
    near, far = (found.reward_after - found.reward_before).mean(1).tolist()
    assert near == pytest.approx(1e-8 * slope, rel=1e-4)
    assert far == pytest.approx(2e-8 * slope, rel=1e-4)


@pytest.mark.parametrize("method", oracles.METHODS)
def test_leaves_the_policy_as_it_was(guarded, task, method):
    probe(guarded, task("gpt2"), method=method, distances=DISTANCES)


@pytest.mark.parametrize("failing_call", [1, 2, 3])
def test_leaves_the_policy_as_it_was_when_it_fails(guarded, task, monkeypatch, failing_call):
    calls = []
    real = probe_module.expected_rewards

    def expected_rewards(*arguments):
        calls.append(1)
        if len(calls) == failing_call:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(probe_module, "expected_rewards", expected_rewards)
    with pytest.raises(KeyboardInterrupt):
        probe(guarded, task("gpt2"), distances=[1e-2, 1e-1, 1.0])


def test_a_reward_that_fails_is_named_and_harmless(guarded, task):
    calls = []

    def second_call_fails(completions, **_):
        calls.append(1)
        if len(calls) == 2:
            raise ZeroDivisionError("no luck")
        return [0.5] * len(completions)

    failing = dataclasses.replace(
        task("gpt2"), reward=FunctionReward("tests:second_call_fails", second_call_fails)
    )
    with pytest.raises(UserError, match=r"reward tests:second_call_fails: .*no luck"):
        probe(guarded, failing, distances=[1e-2])


@pytest.mark.parametrize("method", oracles.METHODS)
def test_equal_rewards_move_nothing(policy, task, method):
    equal = dataclasses.replace(
        task("olmo2"),
        reward=FunctionReward("tests:equal", lambda completions, **_: [0.3] * len(completions)),
    )
    found = probe(policy("olmo2"), equal, method=method, distances=[1e-2])
    assert found.gradient_norm == pytest.approx(0.0, abs=1e-9)
    torch.testing.assert_close(found.reward_after[0], found.reward_before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_batches_do_not_matter(policy, task, monkeypatch, method):
    whole = probe(policy("olmo2"), task("olmo2"), method=method, distances=[1e-2])
    monkeypatch.setattr(probe_module, "FORWARD_TOKENS", 1)
    pieces = probe(policy("olmo2"), task("olmo2"), method=method, distances=[1e-2])
    torch.testing.assert_close(pieces.reward_after, whole.reward_after, rtol=1e-9, atol=1e-12)
    assert pieces.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-10)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_half_precision_is_refused_or_right(policy, task, architecture):
    """A short move is less than a step between two bfloat16 numbers: it must not vanish unseen."""
    exact = probe(policy(architecture), task(architecture), distances=[1e-4])
    true = exact.reward_after[0] - exact.reward_before
    refusal = change = None
    try:
        found = probe(policy(architecture, "bfloat16"), task(architecture), distances=[1e-4])
        change = float((found.reward_after[0] - found.reward_before).mean())
    except UserError as error:
        refusal = error.argument
    assert refusal == "dtype" or change == pytest.approx(float(true.mean()), rel=0.2)


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_the_score_puts_measurements_and_probe_together(policy, task, method):
    budget = Budget(method=method, learning_rate=1e-3, updates=(4, 8), group_size=5)
    found = score(policy("gpt2"), task("gpt2"), budget=budget, site=0, alpha=2.0)
    impact = measure(policy("gpt2"), task("gpt2"), site=0, alpha=2.0, group_size=5)[method]
    assert {name: getattr(found, name) for name in impact.means} == impact.means
    assert found.standard_errors.items() >= impact.standard_errors.items()
    # The mean budget is 6 updates, and learning rates add up to half of them on the way there.
    probed = probe(policy("gpt2"), task("gpt2"), method=method, distances=[3e-3])
    change = probed.reward_after[0] - probed.reward_before
    assert found.probe_step == pytest.approx(float(change.mean()), rel=1e-12)
    assert found.gradient_norm == pytest.approx(probed.gradient_norm, rel=1e-12)
    error = oracles.jackknife(lambda kept: float(change[kept].mean()), len(change))
    assert found.standard_errors["probe_step"] == pytest.approx(error, rel=1e-9)
    assert found.n_prompts == len(found.rows["probe_step"]) == len(change)


def test_training_prompts_are_drawn_evenly_and_the_same_ones_every_time():
    task = arithmetic(prompts=41, train_prompts=400)
    places = [task.train.index(example) for example in update_examples(task)]
    assert len(places) == len(set(places)) == 21
    assert update_examples(task) == update_examples(task)
    assert update_examples(task, 30)[:21] == update_examples(task)
    assert sorted(update_examples(task, 1000), key=task.train.index) == list(task.train)
    # A file may be sorted: the mean place is that of an even draw, 200 to 4 standard errors.
    assert abs(np.mean(places) - 200) < 4 * 400 / 12**0.5 / 21**0.5
    with pytest.raises(UserError, match="prompts: got 0"):
        update_examples(task, 0)


@pytest.mark.parametrize("distances", [[], [0.0], [1e-3, -1e-3], [float("inf")], [float("nan")]])
def test_refuses(policy, task, distances):
    with pytest.raises(UserError, match=r"distances: got .*; wanted numbers above 0"):
        probe(policy("olmo2"), task("olmo2"), distances=distances)
