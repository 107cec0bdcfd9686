"""Teacher-forced values, gradients and measurements against every completion written out."""

import copy
import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
from tests import letters, oracles
from tests.conftest import ARCHITECTURES, SITES
from tests.oracles import completions as oracle

from valuegrad.credit import answer_gradients as module
from valuegrad.credit.answer_gradients import answer_gradients, answer_values
from valuegrad.errors import UserError
from valuegrad.impact.completion_probe import exact_update
from valuegrad.impact.probe import conditional_update, move
from valuegrad.impact.teacher_forced import measure_exact_answers
from valuegrad.impact.vocabulary import expected_rewards, measure
from valuegrad.one_token_prompts import one_token_prompts
from valuegrad.rewards.function import FunctionReward
from valuegrad.sampler import rollouts

RTOL = {"float64": 1e-8, "float32": 1e-4}
SAMPLED = ("lambda_sample", "p_gap")
EVERY = tuple(oracle.every_completion(len(letters.TOKENS), letters.STOPS, letters.MAX_TOKENS))


def prompts_of(architecture, dtype="float64"):
    found = letters.policy(architecture, dtype)
    return letters.asked(found, letters.task(letters.answers(architecture)))


@functools.cache
def enumeration(architecture):
    """Probabilities, rewards and scores of every completion; next-token entropy of each prompt."""
    model, prompts = letters.policy(architecture).model, prompts_of(architecture)
    ps, rs, scores, entropy = [], [], {site: [] for site in SITES}, 0.0
    for ids, answer in zip(prompts.tokens, prompts.answers, strict=True):
        log_p, found = oracle.scores(model, list(ids), EVERY, SITES)
        assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-12)
        ps.append(log_p.exp())
        rs.append(oracle.indicator(EVERY, answer, letters.STOPS))
        next_p = oracles.distribution(model, list(ids))
        entropy -= float((next_p * next_p.log()).sum()) / len(prompts)
        for site in SITES:
            scores[site].append(found[site])
    return ps, rs, scores, entropy


def measurements(architecture, site, method, **options):
    ps, rs, scores, entropy = enumeration(architecture)
    # The entropy that is reported is that of the next token.
    return oracles.measurements(ps, rs, scores[site], method, **options) | {"entropy": entropy}


def assert_close(found, expected, dtype, *, without=()):
    for name, wanted in expected.items():
        if name in without:
            continue
        size = abs(wanted)
        if name.startswith("p_gap"):
            lost = "lambda_sample" if name == "p_gap" else "lambda_conditional"
            size = (expected["sigma"] + expected[lost]) * expected["headroom"]
        assert found[name] == pytest.approx(wanted, rel=0, abs=RTOL[dtype] * size + 1e-12), name
    assert found.keys() == expected.keys()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_values_and_gradients_at_every_state(architecture):
    model, prompts = letters.policy(architecture).model, prompts_of(architecture)
    found = {
        (dtype, site): answer_gradients(letters.policy(architecture, dtype), prompts, site)
        for dtype in RTOL
        for site in SITES
    }
    for row, (ids, answer) in enumerate(zip(prompts.tokens, prompts.answers, strict=True)):
        for t in range(1, len(answer) + 2):
            value, gradients = oracle.value_gradients(
                model, list(ids), answer, letters.STOPS, SITES, t
            )
            for (dtype, site), mine in found.items():
                assert float(mine.value[row, t - 1]) == pytest.approx(value, rel=RTOL[dtype])
                error = (mine.gradient[row, t - 1].double() - gradients[site]).norm()
                assert error <= RTOL[dtype] * gradients[site].norm(), (dtype, site, row, t)
        for mine in found.values():
            assert mine.mask[row].tolist() == [t <= len(answer) for t in range(3)]
            assert not mine.value[row, len(answer) + 1 :].any()
            assert not mine.gradient[row, len(answer) + 1 :].any()


@pytest.mark.parametrize("site", SITES)
def test_gradients_equal_central_differences_and_the_sum_over_completions(site):
    prompts = prompts_of("olmo2")
    found = answer_gradients(letters.policy("olmo2"), prompts, site).gradient
    ps, rs, scores, _ = enumeration("olmo2")
    for row, (p, r, s) in enumerate(zip(ps, rs, scores[site], strict=True)):
        assert torch.allclose(found[row, 0], (p * r) @ s, rtol=1e-9, atol=1e-14)
    model, ids, answer = letters.policy("olmo2").model, prompts.tokens[1], prompts.answers[1]
    direction = torch.randn(16, generator=torch.Generator().manual_seed(2)).double()
    for t in (1, 2, 3):
        slope = oracle.value_slope_differences(
            model, list(ids), answer, letters.STOPS, site, t, direction
        )
        size = float(found[1, t - 1].norm() * direction.norm())
        assert float(found[1, t - 1] @ direction) == pytest.approx(slope, abs=1e-7 * size)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_measurement_of_every_method_at_final(architecture, dtype):
    policy = letters.policy(architecture, dtype)
    found = measure_exact_answers(policy, prompts_of(architecture), alpha=3.0, group_size=5)
    assert tuple(found) == oracles.METHODS
    for method, impact in found.items():
        expected = measurements(architecture, "final", method, alpha=3.0, group_size=5)
        assert_close(impact.means, expected, dtype)


@pytest.mark.parametrize("site", ["embedding", 0, 1])
@pytest.mark.parametrize("architecture", ["gpt2", "olmo2"])
def test_every_measurement_below_final_but_the_sampled_one(architecture, site):
    found = measure_exact_answers(letters.policy(architecture), prompts_of(architecture), site=site)
    for method, impact in found.items():
        assert_close(
            impact.means, measurements(architecture, site, method), "float64", without=SAMPLED
        )
        for name in SAMPLED:
            assert math.isnan(impact.means[name])
            assert math.isnan(impact.standard_errors[name])


@pytest.mark.parametrize(
    ("architecture", "site", "size"), [("llama", 0, 8), ("gpt2", "embedding", 8), ("gpt2", 1, 2)]
)
def test_lambda_below_final_is_unbiased_over_rollouts(architecture, site, size):
    """200 measurements from groups of 8 or 2 rollouts, within 4 standard errors of the truth."""
    policy, prompts = letters.policy(architecture), prompts_of(architecture)
    drawn = letters.regrouped(rollouts(policy, prompts, 200 * size, seed=3), size)
    many = letters.repeated(prompts, 200)
    for method, impact in measure_exact_answers(policy, many, site=site, drawn=drawn).items():
        values = impact.rows["lambda_sample"].reshape(3, 200)
        truth = measurements(architecture, site, method)["lambda_sample"]
        error = math.sqrt((values.var(1, ddof=1) / 200).sum()) / 3
        assert abs(values.mean() - truth) < 4 * error + 1e-6 * truth, method
        assert np.isfinite(values).all()


def test_groups_without_a_miss_count_as_often_as_they_come():
    """At V = 0.73 half of the groups of 2 hold no miss: 400 groups, within 4 standard errors."""
    policy, stops = letters.policy("qwen3", scale=0.35), (0, 3, 4, 5)
    prompts = letters.asked(policy, letters.task(("a",), ("cadbd",)))
    prompts = dataclasses.replace(prompts, stops=stops)
    drawn = letters.regrouped(rollouts(policy, prompts, 800, seed=3), 2)
    every = oracle.every_completion(len(letters.TOKENS), stops, letters.MAX_TOKENS)
    log_p, scores = oracle.scores(policy.model, list(prompts.tokens[0]), every, [0])
    r = oracle.indicator(every, prompts.answers[0], stops)
    assert float(log_p.exp() @ r) > 0.7
    many = letters.repeated(prompts, 400)
    for method, impact in measure_exact_answers(policy, many, site=0, drawn=drawn).items():
        values = impact.rows["lambda_sample"]
        expected = oracles.measurements([log_p.exp()], [r], [scores[0]], method)["lambda_sample"]
        error = values.std(ddof=1) / 20
        assert abs(values.mean() - expected) < 4 * error, method


def test_stop_tokens_differ_in_what_the_answer_adds_below_final():
    """Without a miss, what is left is Σ π(y, stop) ‖Â s − G‖: stop tokens have scores of their own.

    With the mean score of the answer in their place Λ came out up to 9% too small.
    """
    policy = letters.policy("gpt2")
    prompts = letters.asked(policy, letters.task(("a",), ("ab",)))
    (answer,) = prompts.answers
    ids, accepted = list(prompts.tokens[0]), oracle.accepted(answer, letters.STOPS)
    drawn = rollouts(policy, prompts, 4, seed=0)
    drawn = dataclasses.replace(
        drawn,
        completions=((accepted[0],) * 4,),
        rewards=torch.ones(1, 4).double(),
        logp=torch.full((1, 4), oracle.log_probability(policy.model, ids, accepted[0]).item()),
    )
    found = measure_exact_answers(policy, prompts, methods=["grpo"], site=0, drawn=drawn)["grpo"]
    log_p, scores = oracle.scores(policy.model, ids, accepted, [0])
    p, G = float(log_p.exp().sum()), log_p.exp() @ scores[0]
    advantage = (1 - p) / (math.sqrt(p * (1 - p)) + oracles.XI)
    errors = (advantage * scores[0] - G).norm(dim=1)
    expected = float(G.norm() * (log_p.exp() @ errors))
    assert found.means["lambda_sample"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("method", oracles.METHODS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_probe_step_equals_the_explicit_one(method, dtype):
    for architecture in ARCHITECTURES if method == "grpo" else ("gpt2",):
        model, prompts = letters.policy(architecture).model, prompts_of(architecture)
        ids = [list(tokens) for tokens in prompts.tokens]
        arguments = (model, ids, prompts.answers, letters.STOPS, method)
        policy = letters.policy(architecture, dtype)
        found = exact_update(policy, prompts, method)
        for mine, g in zip(found.gradients, oracle.conditional_gradient(*arguments), strict=True):
            assert (mine.double() - g).norm() <= 30 * RTOL[dtype] * g.norm() + 1e-9
        probed = move(found, lambda: answer_values(policy, prompts), [3e-3])  # noqa: B023
        after, norm = oracle.probe(*arguments, 3e-3)
        change = probed.reward_after[0] - probed.reward_before
        before = [float(p @ r) for p, r in zip(*enumeration(architecture)[:2], strict=True)]
        expected = np.array(after) - np.array(before)
        assert probed.gradient_norm == pytest.approx(norm, rel=RTOL[dtype])
        assert float(change.mean()) == pytest.approx(expected.mean(), rel=RTOL[dtype])


@pytest.mark.parametrize("site", [0, "final"])
@pytest.mark.parametrize("architecture", ["olmo2", "gpt2"])
def test_one_token_answers_equal_the_path_over_the_vocabulary(policy, task, architecture, site):
    chosen, prompt_policy = task(architecture), policy(architecture)
    prompts = letters.asked(prompt_policy, chosen)
    assert (prompts.stops, prompts.max_tokens) == ((), 1)
    expected = measure(prompt_policy, chosen, site=site)
    for method, impact in measure_exact_answers(prompt_policy, prompts, site=site).items():
        for name, value in expected[method].means.items():
            if site == "final" or name not in SAMPLED:
                assert impact.means[name] == pytest.approx(value, rel=1e-10), name
                error = expected[method].standard_errors[name]
                assert impact.standard_errors[name] == pytest.approx(error, rel=1e-9), name
        for name, values in expected[method].rows.items():
            if site == "final" or name not in SAMPLED:
                np.testing.assert_allclose(impact.rows[name], values, rtol=1e-10, atol=1e-15)
    single = one_token_prompts(prompt_policy, chosen.evaluation, chosen.reward)
    assert torch.allclose(
        answer_values(prompt_policy, prompts), expected_rewards(prompt_policy, single), rtol=1e-12
    )
    one = conditional_update(prompt_policy, single, "ppo")
    other = exact_update(prompt_policy, prompts, "ppo")
    for a, b in zip(one.gradients, other.gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("constant", [("FORWARD_TOKENS", 4), ("HEAD_ELEMENTS", 40)])
@pytest.mark.parametrize("site", [0, "final"])
def test_batches_and_the_order_of_prompts_do_not_matter(monkeypatch, site, constant):
    policy, prompts = letters.policy("gpt2"), prompts_of("gpt2")
    whole = measure_exact_answers(policy, prompts, methods=["ppo"], site=site)["ppo"]
    texts = letters.answers("gpt2")
    order = [2, 0, 1]
    shuffled = letters.asked(
        policy,
        letters.task([texts[i] for i in order], [letters.PROMPTS[i] for i in order]),
    )
    monkeypatch.setattr(module, *constant)
    assert len(list(module._parts(policy, prompts))) > 1
    pieces = measure_exact_answers(policy, shuffled, methods=["ppo"], site=site)["ppo"]
    for name, values in whole.rows.items():
        np.testing.assert_allclose(pieces.rows[name], values[order], rtol=1e-10)


def test_stop_tokens_share_the_value():
    policy, prompts = letters.policy("llama"), prompts_of("llama")
    both = answer_values(policy, prompts)
    each = [
        answer_values(policy, dataclasses.replace(prompts, stops=(stop,))) for stop in letters.STOPS
    ]
    torch.testing.assert_close(sum(each), both, rtol=1e-12, atol=0)
    turned = answer_values(policy, dataclasses.replace(prompts, stops=letters.STOPS[::-1]))
    torch.testing.assert_close(turned, both, rtol=1e-14, atol=0)


@pytest.mark.parametrize("seed", range(8))
def test_certain_answers_give_finite_numbers(seed):
    """All of the probability on several stop tokens: their sum must not round above 1."""
    base = letters.policy("llama")
    model = copy.deepcopy(base.model)
    generator = torch.Generator().manual_seed(seed)
    hidden = []
    policy = dataclasses.replace(base, model=model)
    prompts = letters.asked(policy, letters.task(("a",), ("ab",)))
    prompts = dataclasses.replace(prompts, stops=(0, 1, 3, 4, 5))
    for ids in (prompts.tokens[0], (*prompts.tokens[0], 2)):
        output = model.base_model(torch.tensor([ids]), use_cache=False)
        hidden.append(output.last_hidden_state[0, -1].detach())
    # Logits: the answer far above the rest at the prompt, far below it after the answer.
    wanted = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    wanted[2] = torch.tensor([100.0, -100.0])
    with torch.no_grad():
        solution = torch.linalg.lstsq(torch.stack(hidden), wanted.T).solution
        model.get_output_embeddings().weight.copy_(solution.T)
    (impact,) = measure_exact_answers(policy, prompts, methods=["grpo"]).values()
    assert all(map(math.isfinite, impact.means.values()))
    assert impact.means["reward_before"] <= 1
    assert impact.means["reward_before"] == pytest.approx(1, abs=1e-12)
    assert impact.means["pass_at_k"] == pytest.approx(1, abs=1e-12)


def test_other_rewards_and_settings_are_refused(unchecked):
    policy, prompts = letters.policy("llama"), prompts_of("llama")
    graded = FunctionReward("tests:f", lambda completions, **_: [0.5] * len(completions))
    for call in (answer_values, answer_gradients, measure_exact_answers):
        with pytest.raises(UserError, match="reward: got tests:f; wanted exact"):
            call(policy, dataclasses.replace(prompts, reward=graded))
    for options, message in (
        ({"site": 2}, "site: got 2"),
        ({"methods": ["grop"]}, "method: got 'grop'"),
        ({"alpha": 0.0}, r"alpha: got 0\.0"),
        ({"group_size": 1}, "group_size: got 1"),
    ):
        with pytest.raises(UserError, match=message):
            measure_exact_answers(policy, prompts, **options)
