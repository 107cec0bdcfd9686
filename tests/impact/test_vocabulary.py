"""Every measurement of a checkpoint against the enumeration of the vocabulary."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from tests import oracles
from tests.conftest import PROMPTS

from valuegrad.errors import UserError
from valuegrad.finite_groups import group_advantages
from valuegrad.impact import vocabulary as module
from valuegrad.impact.vocabulary import measure, rewards
from valuegrad.model import batches as batches_module
from valuegrad.model.batches import prompt_states
from valuegrad.prompts import tokenise
from valuegrad.rewards.function import FunctionReward
from valuegrad.tasks.task import Task

RTOL = {"float64": 1e-8, "float32": 1e-4}
DIFFERENCES = {
    "p_gap" + kind + limit: "lambda_" + (kind[1:] or "sample") + limit
    for kind in ("", "_conditional")
    for limit in ("", "_population")
}
# Group size and prompts of an update, small enough to enumerate all that the others earn.
SIZES = {"exact": (4, 2), "graded": (2, 1)}


def sizes(reward):
    return dict(zip(("group_size", "prompts_per_update"), SIZES[reward], strict=True))


def approx(value):
    return pytest.approx(value, rel=RTOL["float64"], abs=1e-12, nan_ok=True)


def assert_measured(found, expected, dtype):
    """Equal to a relative 1e-8 or 1e-4; in float32 a difference, to 1e-4 of what it is taken of."""
    for name, value in expected.items():
        if math.isnan(value):
            assert math.isnan(found[name]), name
            continue
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
    chosen = task(architecture, reward)
    found = measure(policy(architecture, dtype), chosen, site=site, **sizes(reward))
    assert tuple(found) == oracles.METHODS
    for method, impact in found.items():
        expected = oracles.measurements(ps, rs, scores[site], method, **sizes(reward))
        assert_measured(vars(impact.means), expected, dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("site", [1, "final"])
@pytest.mark.parametrize("architecture", ["gpt_neox", "llama", "qwen3"])
def test_other_architectures(policy, task, enumeration, architecture, site, dtype):
    _, ps, rs, scores = enumeration(architecture, "graded")
    chosen = task(architecture, "graded")
    options = {"methods": ["grpo"], "site": site, **sizes("graded")}
    (impact,) = measure(policy(architecture, dtype), chosen, **options).values()
    expected = oracles.measurements(ps, rs, scores[site], "grpo", **sizes("graded"))
    assert_measured(vars(impact.means), expected, dtype)


@pytest.mark.parametrize("method", [m for m in oracles.METHODS if m != "ppo"])
@pytest.mark.parametrize("reward", ["exact", "graded"])
def test_standard_errors_are_the_jackknife_over_prompts(policy, task, enumeration, method, reward):
    _, ps, rs, scores = enumeration("olmo2", reward)
    chosen = task("olmo2", reward)
    found = measure(policy("olmo2"), chosen, methods=[method], **sizes(reward))[method]
    left_out = {}

    def without(kept, name):
        if tuple(kept) not in left_out:
            some = [[column[i] for i in kept] for column in (ps, rs, scores["final"])]
            left_out[tuple(kept)] = oracles.measurements(
                *some, method, prompts=len(ps), **sizes(reward)
            )
        return left_out[tuple(kept)][name]

    expected = {
        name: oracles.jackknife(lambda kept, name=name: without(kept, name), len(ps))
        for name in vars(found.means)
    }
    assert vars(found.standard_errors) == approx(expected)


LINEAR = ("alignment", "lambda_conditional", "p_alignment", "p_gap_conditional")


@pytest.mark.parametrize("reward", ["exact", "graded"])
def test_standard_errors_of_ppo_hold_the_pooled_deviation(policy, task, enumeration, reward):
    """Exactly for what is linear in the slope, in the limit; by its derivative for Λ_sample."""
    _, ps, rs, scores = enumeration("olmo2", reward)
    chosen = task("olmo2", reward)
    found = measure(policy("olmo2"), chosen, methods=["ppo"], group_size=2, prompts_per_update=1)
    impact = found["ppo"]

    def without(kept, name):
        some = [[column[i] for i in kept] for column in (ps, rs, scores["final"])]
        return oracles.measurements(*some, "ppo", group_size=2)[name]

    for name in LINEAR:
        error = oracles.jackknife(
            lambda kept, name=name: without(kept, name + "_population"), len(ps)
        )
        assert getattr(impact.standard_errors, name + "_population") == approx(error)
        taken = impact.rows.alignment_population.tolist()
    taken_as_given = oracles.jackknife(
        lambda kept: sum(taken[i] for i in kept) / len(kept), len(ps)
    )
    assert impact.standard_errors.alignment_population != approx(taken_as_given)
    error = oracles.jackknife(lambda kept: without(kept, "lambda_sample_population"), len(ps))
    assert impact.standard_errors.lambda_sample_population == pytest.approx(error, rel=0.25)


def test_alpha_and_group_size_reach_what_they_name(policy, task, enumeration):
    _, ps, rs, scores = enumeration("gpt2", "graded")
    found = measure(
        policy("gpt2"), task("gpt2", "graded"), methods=["rloo"], alpha=1.5, group_size=3
    )["rloo"]
    expected = oracles.measurements(ps, rs, scores["final"], "rloo", alpha=1.5, group_size=3)
    # 3 rewards of a group can be had in more ways than are kept apart.
    for name in ("lambda_sample", "p_gap"):
        assert getattr(found.means, name) == pytest.approx(expected[name], rel=0.02)
        expected[name] = getattr(found.means, name)
    assert vars(found.means) == approx(expected)


def test_rows_average_to_the_means_and_follow_the_prompts(policy, task):
    examples = task("olmo2", "graded").evaluation
    order = [3, 0, 1, 4, 2]
    shuffled = dataclasses.replace(
        task("olmo2", "graded"), evaluation=tuple(examples[i] for i in order)
    )
    one = measure(policy("olmo2"), task("olmo2", "graded"), group_size=3)
    other = measure(policy("olmo2"), shuffled, group_size=3)
    for method in oracles.METHODS:
        means = vars(one[method].means)
        assert vars(other[method].means) == approx(means)
        assert vars(other[method].standard_errors) == approx(vars(one[method].standard_errors))
        for name, values in vars(one[method].rows).items():
            assert values.shape == (len(PROMPTS),)
            assert values.dtype == torch.float64
            moved = getattr(other[method].rows, name)
            torch.testing.assert_close(moved, values[order], rtol=1e-10, atol=0, equal_nan=True)
            if name in means:
                assert float(values.mean()) == approx(means[name])


@pytest.mark.parametrize("site", [0, "final"])
@pytest.mark.parametrize(
    ("place", "constant"),
    [
        (batches_module, ("BATCH_TOKENS", 20)),
        (batches_module, ("HEAD_ELEMENTS", 600)),
        (module, ("KEPT_ELEMENTS", 0)),
    ],
    ids=["tokens", "head", "kept"],
)
def test_batch_sizes_do_not_matter(policy, task, monkeypatch, site, place, constant):
    shapes = []
    real = batches_module.logits
    monkeypatch.setattr(
        batches_module,
        "logits",
        lambda policy, states: shapes.append(len(states)) or real(policy, states),
    )
    whole = measure(policy("gpt2"), task("gpt2", "graded"), site=site, group_size=3)
    once = len(shapes)
    monkeypatch.setattr(place, *constant)
    shapes.clear()
    pieces = measure(policy("gpt2"), task("gpt2", "graded"), site=site, group_size=3)
    if constant[0] == "HEAD_ELEMENTS":
        assert 1 < 600 // policy("gpt2").head.shape[0] == max(shapes) < len(PROMPTS)
    if constant[0] == "KEPT_ELEMENTS" and site == "final":
        # Formed again for the gradients.
        assert len(shapes) == 2 * once
    for method in oracles.METHODS:
        assert vars(pieces[method].means) == approx(vars(whole[method].means))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("level", [-20.0, 0.0, 0.1, 3.0])
def test_equal_rewards_leave_no_signal(policy, task, dtype, level):
    equal = with_reward(task("olmo2"), lambda completions: [level] * len(completions))
    for impact in measure(policy("olmo2", dtype), equal).values():
        means = vars(impact.means)
        assert all(map(math.isfinite, [*means.values(), *vars(impact.standard_errors).values()]))
        assert means["reward_before"] == pytest.approx(level, rel=1e-12)
        assert means["zero_spread_groups"] == pytest.approx(len(PROMPTS), rel=1e-12)
        for name in ("sigma", "alignment", "headroom", "headroom_pooled", "reward_variance"):
            assert means[name] == pytest.approx(0.0, abs=1e-12), name


@pytest.mark.parametrize("shift", [-30.0, 4.0])
def test_headrooms_do_not_change_when_every_reward_moves_by_the_same(policy, task, shift):
    base = with_reward(task("gpt2"), lambda completions: [len(c) % 3 / 2 for c in completions])
    moved = with_reward(base, lambda completions: [len(c) % 3 / 2 + shift for c in completions])
    one, other = (
        vars(measure(policy("gpt2"), t, methods=["grpo"])["grpo"].means) for t in (base, moved)
    )
    for name in ("headroom", "headroom_pooled", "sigma", "alignment", "p_alignment"):
        assert other[name] == pytest.approx(one[name], rel=1e-8), name


@pytest.mark.parametrize("alpha", [0.5, 5.0, 1000.0])
def test_headroom_of_an_indicator_keeps_its_digits(policy, task, alpha):
    """(1/α) log(1 + p(e^α − 1)) − p, by its series where p is tiny and by logarithms elsewhere."""
    sharp = with_head(policy("olmo2"), lambda weight: weight.mul_(5))
    rows = measure(sharp, task("olmo2"), methods=["grpo"], alpha=alpha)["grpo"].rows
    assert rows.reward.min() < 1e-17 < 0.1 < rows.reward.max()
    for p, headroom in zip(rows.reward.tolist(), rows.headroom.tolist(), strict=True):
        if alpha < 700 and p * math.exp(alpha) < 1e-9:
            expected = p * (math.expm1(alpha) - alpha) / alpha
        else:
            expected = np.logaddexp(math.log1p(-p), math.log(p) + alpha) / alpha - p
        assert headroom == pytest.approx(expected, rel=1e-8, abs=0)


@pytest.mark.parametrize("architecture", ["olmo2", "gpt2", "gpt_neox", "llama", "qwen3"])
@pytest.mark.parametrize("site", [0, "final"])
def test_correction_e_in_the_limit_the_papers_score_is_never_positive(
    policy, task, architecture, site
):
    impact = measure(policy(architecture), task(architecture), methods=["grpo"], site=site)["grpo"]
    assert impact.means.p_gap_population < 0
    assert impact.means.p_gap_conditional_population < 0
    deviation = impact.rows.reward_variance.sqrt()
    aligned = impact.rows.sigma / (deviation + oracles.XI)
    assert impact.means.alignment_population == approx(float(aligned.mean()))
    # The proof's formula, Σ − Λ = E‖G‖²(2 − 1/(σ + ξ)).
    signal = float((impact.rows.sigma * (2 - 1 / (deviation + oracles.XI))).mean())
    expected = approx(signal * impact.means.headroom)
    assert impact.means.p_gap_conditional_population == expected


@pytest.mark.parametrize("site", [0, "final"])
def test_correction_e_in_small_groups_the_papers_score_is_positive(policy, task, site):
    """S/Σ = 2 − ψ, which lies from 0.5 to 0.6 at G = 4 whatever p is."""
    rows = measure(policy("gpt2"), task("gpt2"), methods=["grpo"], site=site, group_size=4)
    impact = rows["grpo"]
    share = 1 - impact.rows.lambda_conditional / impact.rows.sigma
    assert ((share > 0.49) & (share < 0.61)).all()
    assert impact.means.p_gap_conditional > 0 > impact.means.p_gap_conditional_population


def half(policy, task):
    """A policy that gives the answer of one prompt a probability of 1/2, and that prompt."""
    one = dataclasses.replace(task, evaluation=task.evaluation[:1])
    prompts = tokenise(policy, one).evaluation
    state = prompt_states(policy, prompts.tokens)[0]
    ((answer,),) = prompts.answers

    def halve(weight):
        weight.zero_()
        weight[answer] = math.log(len(weight) - 1) * state / state.square().sum()

    return with_head(policy, halve), one


def test_correction_e_is_sharp_up_to_xi(policy, task):
    """At p = 1/2 exactly, ξ leaves Σ − Λ = 4ξ/(1 + 2ξ) Σ and no more, in the limit."""
    impact = measure(*half(policy("olmo2"), task("olmo2")), methods=["grpo"])["grpo"]
    assert impact.means.reward_before == pytest.approx(0.5, rel=1e-12)
    excess = 4 * oracles.XI / (1 + 2 * oracles.XI)
    ceiling = excess * impact.means.sigma * impact.means.headroom
    means = impact.means
    assert means.p_gap_conditional_population == pytest.approx(ceiling, rel=1e-8)
    assert means.p_gap_population <= means.p_gap_conditional_population * (1 + 1e-9)
    assert all(math.isnan(error) for error in vars(impact.standard_errors).values())


@pytest.mark.parametrize(("size", "share"), [(4, 0.35), (8, 0.22), (16, 0.12)])
def test_even_the_sampled_score_is_positive_in_groups_at_one_half(size, share):
    """Two tokens with p = 1/2: s₁ = −s₀ and G = s₁/2, so that S/Σ = 1 − 2 E|Â − 1/2|."""
    both = torch.full((1, 2), 0.5, dtype=torch.float64)
    group = group_advantages(torch.tensor([0.0, 1.0]), both, "grpo", size)
    error = (group.weights[0, 1] * (group.nodes[0, 1] - 0.5).abs()).sum()
    assert 1 - 2 * float(error) == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("site", [1, "final"])
def test_certain_policies_give_finite_numbers(policy, task, dtype, site):
    """With p = 0 and p = 1 to the last digit nothing is left to gain, and nothing is NaN."""
    sharp = with_head(policy("llama", dtype), lambda weight: weight.mul_(3000))
    for impact in measure(sharp, task("llama"), site=site).values():
        means = vars(impact.means)
        assert all(map(math.isfinite, [*means.values(), *vars(impact.standard_errors).values()]))
        assert set(impact.rows.reward.tolist()) <= {0.0, 1.0}
        assert means["pass_at_k"] == means["reward_before"]
        for name in ("sigma", "lambda_sample", "alignment", "headroom", "entropy"):
            assert means[name] == pytest.approx(0.0, abs=1e-9), name
    flat = with_head(policy("llama", dtype), lambda weight: weight.zero_())
    impact = measure(flat, task("llama"), methods=["grpo"])["grpo"]
    assert impact.means.entropy == pytest.approx(math.log(len(flat.head)), rel=1e-12)
    assert impact.means.reward_before == pytest.approx(1 / len(flat.head), rel=1e-12)


def test_expected_rewards(policy, task, enumeration):
    _, ps, rs, _ = enumeration("qwen3", "graded")
    prompts = tokenise(policy("qwen3"), task("qwen3", "graded")).evaluation
    expected = [float(p @ r) for p, r in zip(ps, rs, strict=True)]
    assert rewards(policy("qwen3"), prompts).tolist() == approx(expected)


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


@pytest.mark.parametrize(
    ("sizes", "tolerance"), [((2, 1), 1e-6), ((2, 2), 0.1), ((4, 2), 0.1)], ids=str
)
def test_standard_errors_of_ppo_in_finite_batches(policy, task, enumeration, sizes, tolerance):
    """A batch of one prompt does not see the others; of two it sees them in part."""
    _, ps, rs, scores = enumeration("olmo2", "exact")
    group, prompts = sizes
    options = {"group_size": group, "prompts_per_update": prompts}
    found = measure(policy("olmo2"), task("olmo2"), methods=["ppo"], **options)["ppo"]

    def without(kept, name):
        some = [[column[i] for i in kept] for column in (ps, rs, scores["final"])]
        return oracles.measurements(*some, "ppo", **options)[name]

    for name in ("alignment", "lambda_conditional"):
        error = oracles.jackknife(lambda kept, name=name: without(kept, name), len(ps))
        assert getattr(found.standard_errors, name) == pytest.approx(error, rel=tolerance), name
