"""The probe step against an explicit first step of Adam on the enumerated objective."""

import dataclasses

import pytest
import torch
from tests import letters, oracles
from tests.conftest import ARCHITECTURES

from valuegrad.budget import Budget
from valuegrad.errors import UserError
from valuegrad.impact import vocabulary
from valuegrad.impact.estimator import Estimator, Measured
from valuegrad.impact.probe import move, probe
from valuegrad.impact.settings import Sampling
from valuegrad.impact.update import Update
from valuegrad.model import batches as batches_module
from valuegrad.rewards.function import FunctionReward

DISTANCES = (1e-3, 3e-2)
# Group size and prompts of an update, small enough to enumerate all that the others earn.
SIZES = {"exact": (4, 2), "graded": (3, 1)}


def budget(reward, method="grpo"):
    group, prompts = SIZES[reward]
    return Budget(
        method=method, group_size=group, prompts_per_update=prompts, max_gradient_norm=1e9
    )


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
            sampling=Sampling(probe_prompts=len(chosen.train)),
            budget=budget(reward, method),
        )
        before = [float(p @ r) for p, r in zip(ps, rs, strict=True)]
        outcomes = [
            oracles.probe(
                policy(architecture).model, learnt, (ids, rs), method, distance, *SIZES[reward]
            )
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
        change = found.change[row]
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
    update = oracles.conditional_gradient(model, *training("llama"), "grpo", *SIZES["exact"])
    slope = sum(
        float((g * u / (u.abs() + 1e-8)).sum())
        for g, u in zip(
            oracles.conditional_gradient(model, ids, rs, "reinforce"), update, strict=True
        )
    )
    count = len(task("llama").train)
    sampling = Sampling(probe_prompts=count)
    found = probe(
        policy("llama"),
        task("llama"),
        distances=[1e-8, 2e-8],
        sampling=sampling,
        budget=budget("exact"),
    )
    near, far = found.change.mean(1).tolist()
    assert near == pytest.approx(1e-8 * slope, rel=1e-4)
    assert far == pytest.approx(2e-8 * slope, rel=1e-4)


@pytest.mark.parametrize("method", oracles.METHODS)
def test_leaves_the_policy_as_it_was(guarded, task, method):
    probe(guarded, task("gpt2"), method=method, distances=DISTANCES)


@pytest.mark.parametrize("failing_call", [1, 2, 3])
def test_leaves_the_policy_as_it_was_when_it_fails(guarded, task, monkeypatch, failing_call):
    calls = []
    real = vocabulary.rewards

    def rewards(*arguments):
        calls.append(1)
        if len(calls) == failing_call:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(vocabulary, "rewards", rewards)
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
    monkeypatch.setattr(batches_module, "BATCH_TOKENS", 1)
    pieces = probe(policy("olmo2"), task("olmo2"), method=method, distances=[1e-2])
    torch.testing.assert_close(pieces.reward_after, whole.reward_after, rtol=1e-9, atol=1e-12)
    assert pieces.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-10)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_half_precision_is_refused_or_right(policy, task, architecture):
    """A short move is less than a step between two bfloat16 numbers: it must not vanish unseen."""
    exact = probe(policy(architecture), task(architecture), distances=[1e-4])
    true = exact.change[0]
    refusal = change = None
    try:
        found = probe(policy(architecture, "bfloat16"), task(architecture), distances=[1e-4])
        change = float(found.change[0].mean())
    except UserError as error:
        refusal = error.argument
    assert refusal == "dtype" or change == pytest.approx(float(true.mean()), rel=0.2)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_move_of_several_steps_forms_its_update_anew_after_each(steps):
    """On a quadratic V(θ) = −(θ − 1)²/2 the gradient is 1 − θ, and Adam's step its sign."""
    theta = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    places, asked = [], []

    def value():
        places.append(theta.detach().item())
        return -((theta.detach() - 1) ** 2) / 2

    def update(step):
        asked.append((step, theta.detach().item()))
        return Update([theta], [1 - theta.detach()], 7.0)

    way = Estimator("sampled", lambda: Measured({}), value, update, steps, 1)
    found = move(way, value(), [0.3, 2.4])
    assert (found.distances, found.gradient_norm) == ((0.3, 2.4), 7.0)
    far = {1: 2.4, 3: 0.8}[steps]
    assert places == pytest.approx([0.0, 0.3, far], abs=1e-7)
    once = [(0, 0.0)]
    expected = {1: once, 3: [*once, (1, 0.1), (2, 0.2), (1, 0.8), (2, 1.6)]}[steps]
    assert [step for step, _ in asked] == [step for step, _ in expected]
    assert [at for _, at in asked] == pytest.approx([at for _, at in expected], abs=1e-7)
    assert theta.detach().item() == 0.0
    before = torch.tensor([-0.5], dtype=torch.float64)
    torch.testing.assert_close(found.reward_before, before)
    torch.testing.assert_close(found.change, found.reward_after - before)


def test_every_kind_of_task_has_a_probe():
    """Longer answers go in several steps by default, and sampling is told how many rollouts."""
    policy = letters.policy("llama", scale=0.35)
    exact = letters.task(letters.answers("llama", scale=0.35))
    length = FunctionReward("tests:f", lambda completions, **_: [len(c) / 3 for c in completions])
    graded = dataclasses.replace(exact, reward=length)
    plain, small = Sampling(rollouts=8), {"budget": Budget(group_size=4)}
    for task in (exact, graded):
        found = probe(policy, task, distances=[1e-3, 1e-2], sampling=plain, **small)
        assert found.reward_after.shape == (2, 3)
        assert (found.change != 0).any()
        alone = probe(policy, task, distances=[1e-2], sampling=plain, **small)
        assert torch.equal(alone.change[0], found.change[1])
        four = dataclasses.replace(plain, probe_steps=4)
        assert torch.equal(
            probe(policy, task, distances=[1e-2], sampling=four, **small).change[0], alone.change[0]
        )
        one = dataclasses.replace(plain, probe_steps=1)
        straight = probe(policy, task, distances=[1e-2], sampling=one, **small)
        assert not torch.equal(straight.change[0], alone.change[0])
    eight = probe(policy, graded, distances=[1e-2], sampling=plain, **small).reward_before
    # Means of 8 rewards of a third each.
    torch.testing.assert_close(24 * eight, (24 * eight).round(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("distances", [[], [0.0], [1e-3, -1e-3], [float("inf")], [float("nan")]])
def test_refuses(policy, task, distances):
    with pytest.raises(UserError, match=r"distances: got .*; wanted numbers above 0"):
        probe(policy("olmo2"), task("olmo2"), distances=distances)
