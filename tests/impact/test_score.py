"""A score holds the measurements, the probe step at its budget's distance, and what it rests on."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from tests import letters, oracles

from valuegrad.budget import Budget
from valuegrad.checkpoints.files import weights_sha256
from valuegrad.errors import UserError
from valuegrad.impact import score as module
from valuegrad.impact import teacher_forced, vocabulary
from valuegrad.impact.probe import probe
from valuegrad.impact.readiness import readiness
from valuegrad.impact.score import probe_updates, score
from valuegrad.impact.settings import Sampling
from valuegrad.prompts import tokenise
from valuegrad.rewards.function import FunctionReward
from valuegrad.tasks.label_copy import label_copy

SHARED = ("reward", "reward_variance", "entropy", "headroom", "pass_at_k", "zero_spread", "sigma")
BY_METHOD = ("alignment", "lambda_conditional", "lambda_sample", "slope")


@pytest.fixture
def without_hash(monkeypatch):
    """For policies whose folder is gone."""
    monkeypatch.setattr(module, "weights_sha256", lambda checkpoint: "0" * 64)


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_the_score_puts_measurements_and_probe_together(policy, task, method):
    budget = Budget(method=method, learning_rate=1e-3, updates=(4, 8), group_size=5)
    found = score(policy("gpt2"), task("gpt2"), budget=budget, site=0, alpha=2.0)
    every = vocabulary.measure(policy("gpt2"), task("gpt2"), site=0, alpha=2.0, group_size=5)
    impact = every[method]
    means = vars(impact.means)
    assert {name: getattr(found, name) for name in means} == means
    assert found.standard_errors.items() >= vars(impact.standard_errors).items()
    # The mean budget is 6 updates, and learning rates add up to half of them on the way there.
    assert probe_updates(budget) == 3.0
    probed = probe(policy("gpt2"), task("gpt2"), distances=[3e-3], budget=budget)
    change = probed.change[0]
    assert found.probe_step == pytest.approx(float(change.mean()), rel=1e-12)
    assert found.gradient_norm == pytest.approx(probed.gradient_norm, rel=1e-12)
    error = oracles.jackknife(lambda kept: float(change[kept].mean()), len(change))
    assert found.standard_errors["probe_step"] == pytest.approx(error, rel=1e-9)
    assert found.n_prompts == len(found.rows["probe_step"]) == len(change)
    rows = found.rows
    for name in SHARED:
        np.testing.assert_array_equal(rows[name], getattr(impact.rows, name))
    for m, other in every.items():
        for name in BY_METHOD:
            np.testing.assert_array_equal(rows[f"{name}:{m}"], getattr(other.rows, name))
    ready = readiness(impact, one_token=True)
    for name in ("signal", "readiness", "verdict"):
        np.testing.assert_array_equal(rows[name], getattr(ready, name))
    assert list(rows["prompt"]) == [e.prompt for e in task("gpt2").evaluation]
    assert set(rows) == {
        *(*SHARED, "probe_step", "prompt", "stratum", "signal", "readiness", "verdict"),
        *(f"{name}:{m}" for name in BY_METHOD for m in oracles.METHODS),
    }


def test_what_a_score_names(policy, task):
    chosen = policy("gpt2")
    found = score(chosen, task("gpt2"), budget=Budget(updates=(2, 4), group_size=7))
    assert (found.checkpoint, found.step, found.revision) == (chosen.checkpoint.name, 7, None)
    assert found.weights_sha256 == weights_sha256(chosen.checkpoint)
    assert (found.task, found.task_sha256) == ("exact", task("gpt2").sha256)
    assert (found.method, found.site, found.alpha) == ("grpo", "final", 5.0)
    assert (found.group_size, found.updates, found.learning_rate) == (7, (2, 4), 1e-5)
    assert (found.estimator, found.closed_form, found.probe_prompts) == ("vocabulary", True, 3)
    assert found.rollouts is found.truncated is found.empty is found.logp_difference is None
    assert found.seconds > 0


@pytest.mark.parametrize("method", ["grpo", "ppo"])
@pytest.mark.parametrize("kind", ["exact", "graded"])
def test_the_probe_of_longer_answers_is_the_probe_step(without_hash, kind, method):
    """`valuegrad.probe` and `score` are one estimator, rollouts and steps included."""
    policy = letters.policy("llama", scale=0.35)
    task = letters.task(letters.answers("llama", scale=0.35))
    if kind == "graded":
        length = FunctionReward(
            "tests:f", lambda completions, **_: [len(c) / 3 for c in completions]
        )
        task = dataclasses.replace(task, reward=length)
    budget = Budget(method=method, learning_rate=1e-3, updates=(4, 8), group_size=9)
    for sampling in (Sampling(), Sampling(rollouts=18, probe_steps=2, probe_prompts=3)):
        found = score(policy, task, budget=budget, sampling=sampling)
        probed = probe(policy, task, distances=[3e-3], sampling=sampling, budget=budget)
        np.testing.assert_allclose(found.rows["probe_step"], probed.change[0], rtol=1e-12)
        assert found.probe_step == pytest.approx(float(probed.change[0].mean()), rel=1e-12)
        assert found.gradient_norm == pytest.approx(probed.gradient_norm, rel=1e-12)
        assert found.probe_step != 0
    assert found.estimator == ("teacher-forced" if kind == "exact" else "sampled")


def test_a_score_of_longer_answers_holds_their_measurements(without_hash):
    policy = letters.policy("llama")
    task = letters.task(letters.answers("llama"))
    prompts = tokenise(policy, task).evaluation
    found = score(policy, task, alpha=2.0)
    expected = teacher_forced.measure(policy, prompts, alpha=2.0)["grpo"]
    assert {k: getattr(found, k) for k in vars(expected.means)} == vars(expected.means)
    assert (found.estimator, found.rollouts, found.probe_prompts) == ("teacher-forced", None, 2)
    drawn = score(policy, task, sampling=Sampling("sampled", rollouts=18))
    assert (drawn.estimator, drawn.closed_form, drawn.rollouts) == ("sampled", False, 18)
    assert 0 < drawn.truncated < 1
    assert 0 < drawn.empty < 1
    assert 0 <= drawn.logp_difference < 1e-4


def test_prompts_that_all_say_the_same_have_no_standard_error(policy, task):
    flat = FunctionReward("tests:f", lambda completions, **_: [0.5] * len(completions))
    found = score(policy("gpt2"), dataclasses.replace(task("gpt2"), reward=flat))
    assert found.probe_step == pytest.approx(0, abs=1e-12)
    same = torch.zeros(5, dtype=torch.float64).numpy()
    assert math.isnan(module._standard_error(same))
    assert module._standard_error(np.array([0.0, 1.0])) == pytest.approx(0.5)


def test_strata_of_prompts_are_rows_and_make_the_error_smaller(policy):
    task = label_copy(prompts=8, train_prompts=8, labels=("a", "B"), template="{name} {label} '")
    assert len({e.stratum for e in task.evaluation}) == 2
    alone = [dataclasses.replace(e, stratum="") for e in task.evaluation]
    found = score(policy("gpt2"), task)
    plain = score(policy("gpt2"), dataclasses.replace(task, evaluation=tuple(alone)))
    rows, strata = found.rows, [e.stratum for e in task.evaluation]
    assert list(rows["stratum"]) == strata
    assert found.probe_step == plain.probe_step
    for name, column in (("probe_step", "probe_step"), ("reward_before", "reward")):
        parts = [rows[column][rows["stratum"] == h] for h in set(strata)]
        variance = sum((len(x) / 8) ** 2 * x.var(ddof=1) / len(x) for x in parts)
        assert found.standard_errors[name] == pytest.approx(math.sqrt(variance), rel=1e-9)
        assert found.standard_errors[name] != plain.standard_errors[name]


@pytest.mark.parametrize(
    ("dtype", "options", "message"),
    [
        ("bfloat16", {}, "dtype: got bfloat16; wanted float32 or float64"),
        ("float32", {"site": 9}, "site: got 9; wanted one of embedding, 0, 1, final"),
        ("float32", {"alpha": 0.0}, "alpha: got 0.0"),
    ],
)
def test_refuses(policy, task, dtype, options, message):
    with pytest.raises(UserError, match=message):
        score(policy("gpt2", dtype), task("gpt2"), **options)


def test_refuses_a_name_in_the_place_of_a_task(policy, unchecked):
    with pytest.raises(UserError, match="task: got 'arithmetic'; wanted a Task"):
        score(policy("gpt2"), "arithmetic")
