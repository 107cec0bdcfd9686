"""Every measurement of a checkpoint against the enumeration of the vocabulary."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from tests import oracles
from tests.conftest import PROMPTS

from valuegrad.credit import value_gradient as value_gradient_module
from valuegrad.errors import UserError
from valuegrad.impact.vocabulary import expected_rewards, measure
from valuegrad.one_token_prompts import one_token_prompts
from valuegrad.rewards.function import FunctionReward
from valuegrad.tasks.task import Task

RTOL = {"float64": 1e-8, "float32": 1e-4}
DIFFERENCES = {"p_gap": "lambda_sample", "p_gap_conditional": "lambda_conditional"}


def approx(value):
    return pytest.approx(value, rel=RTOL["float64"], abs=1e-12)


def assert_measured(found, expected, dtype):
    """Equal to a relative 1e-8 or 1e-4; in float32 a difference, to 1e-4 of what it is taken of."""
    for name, value in expected.items():
        size = abs(value)
        if dtype == "float32" and name in DIFFERENCES:
            size = (expected["sigma"] + expected[DIFFERENCES[name]]) * expected["headroom"]
        assert found[name] == pytest.approx(value, rel=0, abs=RTOL[dtype] * size + 1e-12), name
    assert found.keys() == expected.keys()


def with_reward(task, function):
    return dataclasses.replace(
        task,
        reward=FunctionReward("tests:function", lambda completions, **_: function(completions)),
    )


def with_head(policy, change):
    """The same policy with its output head changed in place, untied from any embedding."""
    model = copy.deepcopy(policy.model)
    with torch.no_grad():
        change(model.get_output_embeddings().weight)
    return dataclasses.replace(policy, model=model)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("reward", ["exact", "graded"])
@pytest.mark.parametrize("site", ["embedding", 0, "final"])
@pytest.mark.parametrize("architecture", ["olmo2", "gpt2"])
def test_every_measurement_of_every_method(
    policy, task, enumeration, architecture, site, reward, dtype
):
    _, ps, rs, scores = enumeration(architecture, reward)
    found = measure(policy(architecture, dtype), task(architecture, reward), site=site)
    assert tuple(found) == oracles.METHODS
    for method, impact in found.items():
        expected = oracles.measurements(ps, rs, scores[site], method)
        assert_measured(impact.means, expected, dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("site", [1, "final"])
@pytest.mark.parametrize("architecture", ["gpt_neox", "llama", "qwen3"])
def test_other_architectures(policy, task, enumeration, architecture, site, dtype):
    _, ps, rs, scores = enumeration(architecture, "graded")
    chosen = task(architecture, "graded")
    (impact,) = measure(policy(architecture, dtype), chosen, methods=["grpo"], site=site).values()
    assert_measured(impact.means, oracles.measurements(ps, rs, scores[site], "grpo"), dtype)


@pytest.mark.parametrize("method", [m for m in oracles.METHODS if m != "ppo"])
@pytest.mark.parametrize("reward", ["exact", "graded"])
def test_standard_errors_are_the_jackknife_over_prompts(policy, task, enumeration, method, reward):
    _, ps, rs, scores = enumeration("olmo2", reward)
    found = measure(policy("olmo2"), task("olmo2", reward), methods=[method])[method]
    left_out = {}

    def without(kept, name):
        if tuple(kept) not in left_out:
            some = [[column[i] for i in kept] for column in (ps, rs, scores["final"])]
            left_out[tuple(kept)] = oracles.measurements(*some, method, prompts=len(ps))
        return left_out[tuple(kept)][name]

    expected = {
        name: oracles.jackknife(lambda kept, name=name: without(kept, name), len(ps))
        for name in found.means
    }
    assert found.standard_errors == approx(expected)


def test_standard_errors_of_ppo_take_the_moments_of_the_batch_as_given(policy, task):
    impact = measure(policy("olmo2"), task("olmo2", "graded"), methods=["ppo"])["ppo"]
    for name in ("alignment", "lambda_conditional", "lambda_sample"):
        values = impact.rows[name].tolist()
        left_out = oracles.jackknife(
            lambda kept, values=values: sum(values[i] for i in kept) / len(kept), len(values)
        )
        assert impact.standard_errors[name] == approx(left_out)


def test_alpha_and_group_size_reach_what_they_name(policy, task, enumeration):
    _, ps, rs, scores = enumeration("gpt2", "graded")
    found = measure(
        policy("gpt2"), task("gpt2", "graded"), methods=["rloo"], alpha=1.5, group_size=3
    )["rloo"]
    expected = oracles.measurements(ps, rs, scores["final"], "rloo", alpha=1.5, group_size=3)
    assert found.means == approx(expected)


def test_rows_average_to_the_means_and_follow_the_prompts(policy, task):
    examples = task("olmo2", "graded").evaluation
    order = [3, 0, 1, 4, 2]
    shuffled = dataclasses.replace(
        task("olmo2", "graded"), evaluation=tuple(examples[i] for i in order)
    )
    one = measure(policy("olmo2"), task("olmo2", "graded"))
    other = measure(policy("olmo2"), shuffled)
    for method in oracles.METHODS:
        assert other[method].means == approx(one[method].means)
        assert other[method].standard_errors == approx(one[method].standard_errors)
        for name, values in one[method].rows.items():
            assert values.shape == (len(PROMPTS),)
            np.testing.assert_allclose(other[method].rows[name], values[order], rtol=1e-10)
            if name in one[method].means:
                assert values.mean() == approx(one[method].means[name])


@pytest.mark.parametrize("site", [0, "final"])
@pytest.mark.parametrize("constant", [("FORWARD_TOKENS", 20), ("HEAD_ELEMENTS", 600)])
def test_batch_sizes_do_not_matter(policy, task, monkeypatch, site, constant):
    shapes = []
    real = value_gradient_module.logits
    monkeypatch.setattr(
        value_gradient_module,
        "logits",
        lambda policy, states: shapes.append(len(states)) or real(policy, states),
    )
    whole = measure(policy("gpt2"), task("gpt2", "graded"), site=site)
    monkeypatch.setattr(value_gradient_module, *constant)
    shapes.clear()
    pieces = measure(policy("gpt2"), task("gpt2", "graded"), site=site)
    if constant[0] == "HEAD_ELEMENTS":
        assert 1 < 600 // policy("gpt2").head.shape[0] == max(shapes) < len(PROMPTS)
    for method in oracles.METHODS:
        assert pieces[method].means == approx(whole[method].means)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("level", [-20.0, 0.0, 0.1, 3.0])
def test_equal_rewards_leave_no_signal(policy, task, dtype, level):
    equal = with_reward(task("olmo2"), lambda completions: [level] * len(completions))
    for impact in measure(policy("olmo2", dtype), equal).values():
        assert all(map(math.isfinite, [*impact.means.values(), *impact.standard_errors.values()]))
        assert impact.means["reward_before"] == pytest.approx(level, rel=1e-12)
        assert impact.means["zero_spread_groups"] == pytest.approx(len(PROMPTS), rel=1e-12)
        for name in ("sigma", "alignment", "headroom", "headroom_pooled", "reward_variance"):
            assert impact.means[name] == pytest.approx(0.0, abs=1e-12), name


@pytest.mark.parametrize("shift", [-30.0, 4.0])
def test_headrooms_do_not_change_when_every_reward_moves_by_the_same(policy, task, shift):
    base = with_reward(task("gpt2"), lambda completions: [len(c) % 3 / 2 for c in completions])
    moved = with_reward(base, lambda completions: [len(c) % 3 / 2 + shift for c in completions])
    one, other = (measure(policy("gpt2"), t, methods=["grpo"])["grpo"].means for t in (base, moved))
    for name in ("headroom", "headroom_pooled", "sigma", "alignment", "p_alignment"):
        assert other[name] == pytest.approx(one[name], rel=1e-8), name


@pytest.mark.parametrize("alpha", [0.5, 5.0, 1000.0])
def test_headroom_of_an_indicator_keeps_its_digits(policy, task, alpha):
    """(1/α) log(1 + p(e^α − 1)) − p, by its series where p is tiny and by logarithms elsewhere."""
    sharp = with_head(policy("olmo2"), lambda weight: weight.mul_(5))
    rows = measure(sharp, task("olmo2"), methods=["grpo"], alpha=alpha)["grpo"].rows
    assert rows["reward"].min() < 1e-17 < 0.1 < rows["reward"].max()
    for p, headroom in zip(rows["reward"].tolist(), rows["headroom"].tolist(), strict=True):
        if alpha < 700 and p * math.exp(alpha) < 1e-9:
            expected = p * (math.expm1(alpha) - alpha) / alpha
        else:
            expected = np.logaddexp(math.log1p(-p), math.log(p) + alpha) / alpha - p
        assert headroom == pytest.approx(expected, rel=1e-8, abs=0)


@pytest.mark.parametrize("architecture", ["olmo2", "gpt2", "gpt_neox", "llama", "qwen3"])
@pytest.mark.parametrize("site", [0, "final"])
def test_correction_e_the_score_of_the_paper_is_never_positive(policy, task, architecture, site):
    impact = measure(policy(architecture), task(architecture), methods=["grpo"], site=site)["grpo"]
    assert impact.means["p_gap"] < 0
    assert impact.means["p_gap_conditional"] < 0
    deviation = np.sqrt(impact.rows["reward_variance"])
    aligned = impact.rows["sigma"] / (deviation + oracles.XI)
    assert impact.means["alignment"] == approx(aligned.mean())
    # The proof's formula, Σ − Λ = E‖G‖²(2 − 1/(σ + ξ)).
    signal = (impact.rows["sigma"] * (2 - 1 / (deviation + oracles.XI))).mean()
    assert impact.means["p_gap_conditional"] == approx(signal * impact.means["headroom"])


def test_correction_e_is_sharp_up_to_xi(policy, task):
    """At p = 1/2 exactly, ξ leaves Σ − Λ = 4ξ/(1 + 2ξ) Σ and no more."""
    base = policy("olmo2")
    one = dataclasses.replace(task("olmo2"), evaluation=task("olmo2").evaluation[:1])
    prompts = one_token_prompts(base, one.evaluation, one.reward)
    state = value_gradient_module.prompt_states(base, prompts)[0]

    def halve(weight):
        weight.zero_()
        weight[prompts.answers[0]] = math.log(len(weight) - 1) * state / state.square().sum()

    impact = measure(with_head(base, halve), one, methods=["grpo"])["grpo"]
    assert impact.means["reward_before"] == pytest.approx(0.5, rel=1e-12)
    excess = 4 * oracles.XI / (1 + 2 * oracles.XI)
    ceiling = excess * impact.means["sigma"] * impact.means["headroom"]
    assert impact.means["p_gap_conditional"] == pytest.approx(ceiling, rel=1e-8)
    assert impact.means["p_gap"] <= impact.means["p_gap_conditional"] * (1 + 1e-9)
    assert all(math.isnan(error) for error in impact.standard_errors.values())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("site", [1, "final"])
def test_certain_policies_give_finite_numbers(policy, task, dtype, site):
    """With p = 0 and p = 1 to the last digit nothing is left to gain, and nothing is NaN."""
    sharp = with_head(policy("llama", dtype), lambda weight: weight.mul_(3000))
    for impact in measure(sharp, task("llama"), site=site).values():
        assert all(map(math.isfinite, [*impact.means.values(), *impact.standard_errors.values()]))
        assert set(impact.rows["reward"]) <= {0.0, 1.0}
        assert impact.means["pass_at_k"] == impact.means["reward_before"]
        for name in ("sigma", "lambda_sample", "alignment", "headroom", "entropy"):
            assert impact.means[name] == pytest.approx(0.0, abs=1e-9), name
    flat = with_head(policy("llama", dtype), lambda weight: weight.zero_())
    impact = measure(flat, task("llama"), methods=["grpo"])["grpo"]
    assert impact.means["entropy"] == pytest.approx(math.log(len(flat.head)), rel=1e-12)
    assert impact.means["reward_before"] == pytest.approx(1 / len(flat.head), rel=1e-12)


def test_expected_rewards(policy, task, enumeration):
    _, ps, rs, _ = enumeration("qwen3", "graded")
    chosen = task("qwen3", "graded")
    prompts = one_token_prompts(policy("qwen3"), chosen.evaluation, chosen.reward)
    expected = [float(p @ r) for p, r in zip(ps, rs, strict=True)]
    assert expected_rewards(policy("qwen3"), prompts).tolist() == approx(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": ["grop"]}, r"method: got 'grop'; wanted one of grpo, dr_grpo"),
        ({"alpha": 0.0}, r"alpha: got 0.0; wanted a number above 0"),
        ({"alpha": math.inf}, r"alpha: got inf"),
        ({"group_size": 1}, r"group_size: got 1; wanted 2 or more"),
        ({"site": 2}, r"site: got 2; wanted one of embedding, 0, 1, final"),
        ({"site": "last"}, r"site: got 'last'"),
    ],
)
def test_refuses(policy, task, unchecked, arguments, message):
    with pytest.raises(UserError, match=message):
        measure(policy("olmo2"), task("olmo2"), **arguments)


def test_refuses_a_task_without_prompts(policy, task):
    empty = Task("empty", (), (), task("olmo2").reward)
    with pytest.raises(UserError, match="task: got no prompts"):
        measure(policy("olmo2"), empty)
