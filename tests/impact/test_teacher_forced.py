"""Teacher-forced measurements and updates against every completion written out."""

import copy
import dataclasses
import math

import pytest
import torch
from tests import letters, oracles
from tests.conftest import ARCHITECTURES
from tests.oracles import completions as oracle

from valuegrad.budget import Budget
from valuegrad.errors import UserError
from valuegrad.impact import vocabulary
from valuegrad.impact.estimator import estimator
from valuegrad.impact.probe import move
from valuegrad.impact.settings import Sampling
from valuegrad.impact.teacher_forced import measure, rewards, update
from valuegrad.model import batches as batches_module
from valuegrad.prompts import TaskPrompts, tokenise
from valuegrad.rewards.function import FunctionReward
from valuegrad.sampler import rollouts

RTOL = {"float64": 1e-8, "float32": 1e-4}
SAMPLED = ("lambda_sample", "p_gap", "lambda_sample_population", "p_gap_population")
SIZES = {"group_size": 4, "prompts_per_update": 2}


def measurements(architecture, site, method, **options):
    ps, rs, scores, entropy = letters.enumeration(architecture)
    # The entropy that is reported is that of the next token.
    options = SIZES | options
    return oracles.measurements(ps, rs, scores[site], method, **options) | {"entropy": entropy}


def assert_close(found, expected, dtype, *, without=()):
    for name, wanted in expected.items():
        if name in without:
            continue
        size = abs(wanted)
        if name.startswith("p_gap"):
            lost = "lambda_conditional" if "conditional" in name else "lambda_sample"
            lost += "_population" * name.endswith("_population")
            size = (expected["sigma"] + expected[lost]) * expected["headroom"]
        assert found[name] == pytest.approx(wanted, rel=0, abs=RTOL[dtype] * size + 1e-12), name
    assert found.keys() == expected.keys()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_measurement_of_every_method_at_final(architecture, dtype):
    policy = letters.policy(architecture, dtype)
    prompts = letters.asked_for_answers(architecture)
    found = measure(policy, prompts, alpha=3.0, group_size=3, prompts_per_update=2)
    assert tuple(found) == oracles.METHODS
    for method, impact in found.items():
        expected = measurements(architecture, "final", method, alpha=3.0, group_size=3)
        assert_close(vars(impact.means), expected, dtype)


@pytest.mark.parametrize("site", ["embedding", 0, 1])
@pytest.mark.parametrize("architecture", ["gpt2", "olmo2"])
def test_every_measurement_below_final_but_the_sampled_one(architecture, site):
    prompts = letters.asked_for_answers(architecture)
    found = measure(letters.policy(architecture), prompts, site=site, **SIZES)
    for method, impact in found.items():
        expected = measurements(architecture, site, method)
        assert_close(vars(impact.means), expected, "float64", without=SAMPLED)
        for name in SAMPLED:
            assert math.isnan(getattr(impact.means, name))
            assert math.isnan(getattr(impact.standard_errors, name))


@pytest.mark.parametrize(
    ("architecture", "site", "size"), [("llama", 0, 8), ("gpt2", "embedding", 8), ("gpt2", 1, 2)]
)
def test_lambda_below_final_is_unbiased_over_rollouts(architecture, site, size):
    """200 measurements from groups of 8 or 2 rollouts, within 4 standard errors of the truth."""
    policy, prompts = letters.policy(architecture), letters.asked_for_answers(architecture)
    drawn = letters.regrouped(rollouts(policy, prompts, 200 * size, seed=3), size)
    many = letters.repeated(prompts, 200)
    for method, impact in measure(policy, many, site=site, drawn=drawn, **SIZES).items():
        values = impact.rows.lambda_sample.reshape(3, 200)
        truth = measurements(architecture, site, method)["lambda_sample"]
        error = math.sqrt((values.var(1) / 200).sum()) / 3
        assert abs(values.mean() - truth) < 4 * error + 1e-6 * truth, method
        assert values.isfinite().all()


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
    for method, impact in measure(policy, many, site=0, drawn=drawn, **SIZES).items():
        values = impact.rows.lambda_sample
        every = [log_p.exp()], [r], [scores[0]]
        expected = oracles.measurements(*every, method, **SIZES)["lambda_sample"]
        error = values.std() / 20
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
    found = measure(policy, prompts, methods=["grpo"], site=0, drawn=drawn, **SIZES)["grpo"]
    log_p, scores = oracle.scores(policy.model, ids, accepted, [0])
    p, G = float(log_p.exp().sum()), log_p.exp() @ scores[0]
    chances = torch.tensor([1 - p, p], dtype=torch.float64)
    outcomes = torch.tensor([0.0, 1.0], dtype=torch.float64)
    (given,) = oracles.finite_advantages("grpo", [chances], [outcomes], 4)
    errors = sum(w * (advantage * scores[0] - G).norm(dim=1) for w, advantage in given[1.0])
    expected = float(G.norm() * (log_p.exp() @ errors))
    assert found.means.lambda_sample == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("method", ["dr_grpo", "rloo", "reinforce"])
def test_the_probe_step_equals_the_explicit_one(method, dtype):
    """Of the methods that draw nothing; tests/impact/test_update.py has the update of all."""
    for architecture in ARCHITECTURES if method == "rloo" else ("gpt2",):
        model = letters.policy(architecture).model
        prompts = letters.asked_for_answers(architecture)
        ids = [list(tokens) for tokens in prompts.tokens]
        ps, rs, _, _ = letters.enumeration(architecture)
        truth = torch.zeros(())
        for tokens, answer in zip(ids, prompts.answers, strict=True):
            value = oracle.value(model, tokens, answer, letters.STOPS)
            found = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
            truth = truth + torch.cat([g.flatten() for g in found]) / len(prompts)
        truth = truth * {"dr_grpo": (1 - 1 / 4) / letters.MAX_TOKENS}.get(method, 1.0)
        policy = letters.policy(architecture, dtype)
        way = estimator(
            policy,
            TaskPrompts(prompts, prompts),
            Budget(method=method, max_gradient_norm=1e9, **SIZES),
            Sampling(probe_steps=1, probe_prompts=len(prompts)),
        )
        probed = move(way, way.rewards(), [3e-3])
        direction = 3e-3 * oracle.adam_direction(truth)
        after = oracle.after_move(model, ids, prompts.answers, letters.STOPS, direction)
        before = torch.stack([p @ r for p, r in zip(ps, rs, strict=True)])
        expected = torch.tensor(after, dtype=torch.float64) - before
        torch.testing.assert_close(rewards(policy, prompts), before, rtol=RTOL[dtype], atol=0)
        assert probed.gradient_norm == pytest.approx(float(truth.norm()), rel=RTOL[dtype])
        change = float(probed.change[0].mean())
        assert change == pytest.approx(float(expected.mean()), rel=RTOL[dtype])


@pytest.mark.parametrize("site", [0, "final"])
@pytest.mark.parametrize("architecture", ["olmo2", "gpt2"])
def test_one_token_answers_equal_the_path_over_the_vocabulary(policy, task, architecture, site):
    chosen, prompt_policy = task(architecture), policy(architecture)
    prompts = tokenise(prompt_policy, chosen).evaluation
    assert (prompts.stops, prompts.max_tokens) == ((), 1)
    expected = vocabulary.measure(prompt_policy, prompts, site=site)
    for method, impact in measure(prompt_policy, prompts, site=site).items():
        for name, value in vars(expected[method].means).items():
            if site == "final" or name not in SAMPLED:
                assert getattr(impact.means, name) == pytest.approx(value, rel=1e-10), name
                error = getattr(expected[method].standard_errors, name)
                found = getattr(impact.standard_errors, name)
                assert found == pytest.approx(error, rel=1e-9), name
        for name, values in vars(expected[method].rows).items():
            if site == "final" or name not in SAMPLED:
                found = getattr(impact.rows, name)
                torch.testing.assert_close(found, values, rtol=1e-10, atol=1e-15)
    assert torch.allclose(
        rewards(prompt_policy, prompts), vocabulary.rewards(prompt_policy, prompts), rtol=1e-12
    )
    one = vocabulary.update(prompt_policy, prompts, "ppo")
    other = update(prompt_policy, prompts, "ppo")
    for a, b in zip(one.gradients, other.gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("method", ["grpo", "ppo"])
@pytest.mark.parametrize("site", [0, "final"])
def test_batches_and_the_order_of_prompts_do_not_matter(monkeypatch, site, method):
    policy, prompts = letters.policy("gpt2"), letters.asked_for_answers("gpt2")
    whole = measure(policy, prompts, methods=[method], site=site)[method]
    moved = update(policy, prompts, method)
    order = [2, 0, 1]
    monkeypatch.setattr(batches_module, "BATCH_TOKENS", 4)
    monkeypatch.setattr(batches_module, "HEAD_ELEMENTS", 8)
    pieces = measure(policy, prompts.some(order), methods=[method], site=site)[method]
    for name, values in vars(whole.rows).items():
        found = getattr(pieces.rows, name)
        expected = values[order]
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=0, equal_nan=True)
    again = update(policy, prompts.some(order), method)
    assert again.gradient_norm == pytest.approx(moved.gradient_norm, rel=1e-10)
    for a, b in zip(again.gradients, moved.gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)


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
    (impact,) = measure(policy, prompts, methods=["grpo"]).values()
    assert all(map(math.isfinite, vars(impact.means).values()))
    assert impact.means.reward_before <= 1
    assert impact.means.reward_before == pytest.approx(1, abs=1e-12)
    assert impact.means.pass_at_k == pytest.approx(1, abs=1e-12)


def test_other_rewards_and_settings_are_refused(unchecked):
    policy, prompts = letters.policy("llama"), letters.asked_for_answers("llama")
    graded = FunctionReward("tests:f", lambda completions, **_: [0.5] * len(completions))
    other = dataclasses.replace(prompts, reward=graded)
    for call in (measure, rewards, lambda *given: update(*given, "grpo")):
        with pytest.raises(UserError, match="reward: got tests:f; wanted exact"):
            call(policy, other)
    for options, message in (
        ({"site": 2}, "site: got 2"),
        ({"methods": ["grop"]}, "method: got 'grop'"),
        ({"alpha": 0.0}, r"alpha: got 0\.0"),
        ({"group_size": 1}, "group_size: got 1"),
    ):
        with pytest.raises(UserError, match=message):
            measure(policy, prompts, **options)
