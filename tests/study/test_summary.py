"""Conclusions from records: every number against its definition written out."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats

from valuegrad.budget import Budget
from valuegrad.checkpoints.checkpoint import Checkpoint
from valuegrad.study.best import (
    best_probability,
    independent,
    rank_intervals,
    shared_prompts,
    true_draws,
)
from valuegrad.study.config import StudyConfig
from valuegrad.study.correlation import correlate
from valuegrad.study.laws import affine, saturating
from valuegrad.study.permutation import EXCHANGEABLE, TRAJECTORY
from valuegrad.study.predictors import PREDICTORS
from valuegrad.study.regret import regret
from valuegrad.study.run import Measured, Outcome
from valuegrad.study.summary import rank, summarise

BUDGET = Budget(updates=(10, 20), seeds=2)
CONFIG = StudyConfig(("runs/step*",), budget=BUDGET)
N = 6
VALUES = {name: np.random.default_rng(i).uniform(0.01, 0.4, N) for i, name in enumerate(PREDICTORS)}
GAINS = np.random.default_rng(99).uniform(-0.1, 0.3, (N, 2, 2))


def measured(i, trained=True, **changes):
    score = {name: float(column[i]) for name, column in VALUES.items()}
    score |= {"checkpoint": f"runs/step{i}", "label": f"step{i}", "step": i, "tokens": None}
    score |= changes
    score["standard_errors"] = {"probe_step": 0.05}
    score["rows"] = {
        "prompt": ["p", "q", "r"],
        "reward": [0.5, None, 0.25],
        "readiness": [0.1, 0.2, None],
        "verdict": ["ready", "ready", "solved"],
    }
    runs = ({"gains": gains.tolist(), "updates": [10, 20]} for gains in GAINS[i])
    checkpoint = Checkpoint(f"runs/step{i}", Path(f"runs/step{i}"), f"step{i}", None, i, None)
    return Measured(checkpoint, score, tuple(runs) if trained else (), (1.5, 2.0))


@pytest.fixture(scope="module")
def result():
    outcome = Outcome(tuple(measured(i) for i in range(N)), {"runs/step9": "no weights"}, 0)
    return summarise(CONFIG, outcome)


def test_the_ranking_goes_by_the_probe_step_with_its_uncertainty(result):
    values, error = VALUES["probe_step"], independent(np.full(N, 0.05), 2.0)
    drawn = true_draws(values, error, np.arange(float(N)))
    order = sorted(range(N), key=lambda i: -values[i])
    assert result.ranking == tuple(f"runs/step{i}" for i in order)
    assert result.best == result.ranking[0]
    np.testing.assert_array_equal(result.best_probability, best_probability(drawn)[order])
    np.testing.assert_array_equal(result.rank_intervals, rank_intervals(drawn)[order])


def test_predictors_are_held_against_mean_gains_rewards_and_each_budget(result):
    mean = GAINS.mean((1, 2))
    for name, found in result.predictors.items():
        if name == "tokens":
            continue
        values = VALUES[name] if name != "step" else np.arange(float(N))
        expected = stats.spearmanr(values, mean).statistic
        assert found.spearman_gain == pytest.approx(expected, rel=1e-12)
        after = stats.spearmanr(values, VALUES["reward_before"] + mean).statistic
        assert found.spearman_after == pytest.approx(after, rel=1e-12)
        for k in range(2):
            at = stats.spearmanr(values, GAINS[:, :, k].mean(1)).statistic
            assert found.spearman_by_updates[k] == pytest.approx(at, rel=1e-12)
        assert found.regret == pytest.approx(regret(values, GAINS.mean(2)), rel=1e-12)
        expected = correlate(
            values, GAINS.mean(2), VALUES["reward_before"], steps=np.arange(float(N))
        )
        assert found.p_value == pytest.approx(expected.p_value, nan_ok=True)
        assert found.spearman_gain_interval == pytest.approx(expected.interval, nan_ok=True)
        assert found.partial_given_step == pytest.approx(expected.partial_given_step, nan_ok=True)
        assert found.test == TRAJECTORY
    assert list(result.predictors) == list(PREDICTORS)


def test_tokens_that_no_name_tells_say_nothing(result):
    found = result.predictors["tokens"]
    assert math.isnan(found.spearman_gain)
    assert found.reasons["spearman"] == "not known of every checkpoint"


def with_rows(i, values, **rows):
    one = measured(i)
    one.score["rows"] |= {"probe_step": values[i].tolist(), **rows}
    one.score["probe_step"] = float(values[i].mean())
    return one


@pytest.mark.parametrize("strata", [None, ["a", "a", "b", "b", "c", "c"]])
def test_prompts_are_shared_by_checkpoints_and_belong_to_strata(strata):
    values = np.random.default_rng(0).normal(size=(N, 6)) + 9 * np.arange(6)
    rows = {"prompt": list("pqrstu"), "reward": [0.5] * 6, "readiness": [0.1] * 6}
    rows |= {"verdict": ["ready"] * 6} | ({"stratum": strata} if strata else {})
    outcome = Outcome(tuple(with_rows(i, values, **rows) for i in range(N)), {}, 0)
    found = summarise(CONFIG, outcome)
    error = shared_prompts(values, strata)
    drawn = true_draws(values.mean(1), error, np.arange(float(N)))
    order = np.argsort(-values.mean(1))
    np.testing.assert_array_equal(found.best_probability, best_probability(drawn)[order])


def test_without_a_common_order_checkpoints_are_taken_for_independent_or_not_tested():
    def study(names, steps):
        named = [
            measured(i, checkpoint=name, step=step)
            for i, (name, step) in enumerate(zip(names, steps, strict=True))
        ]
        return summarise(CONFIG, Outcome(tuple(named), {}, 0))

    runs = study([f"runs/{i}/step5" for i in range(N)], [5] * N)
    assert runs.predictors["headroom"].test == EXCHANGEABLE
    assert math.isfinite(runs.predictors["headroom"].p_value)
    assert runs.laws["affine(p_gap)"].neighbours == 0
    mixed = study([f"runs/{i % 2}/step{i}" for i in range(N)], range(N))
    assert math.isnan(mixed.predictors["headroom"].p_value)
    assert mixed.predictors["headroom"].reasons["p_value"].startswith("several checkpoints of sev")


def test_gains_are_means_over_seeds_and_numbers_of_updates(result):
    for i, found in enumerate(result.checkpoints):
        assert found.gain_mean == pytest.approx(GAINS[i].mean(), rel=1e-12)
        seeds = GAINS[i].mean(1)
        assert found.gain_deviation == pytest.approx(abs(seeds[0] - seeds[1]) / math.sqrt(2))
        assert found.gain_by_updates == pytest.approx(
            {10: GAINS[i, :, 0].mean(), 20: GAINS[i, :, 1].mean()}
        )
        assert found.gains == tuple(map(tuple, GAINS[i].tolist()))
        before = VALUES["reward_before"][i]
        assert found.reward_after_mean == pytest.approx(before + GAINS[i].mean(), rel=1e-12)
        assert found.verdicts == {"ready": 2, "solved": 1, "out of reach": 0}
        assert "rows" not in found.score
    assert (result.seconds.score, result.seconds.train) == (1.5 * N, 2.0 * N)
    assert result.failures == {"runs/step9": "no weights"}


def test_laws_see_the_rise_of_the_log_odds_per_update(result):
    mean, before = GAINS.mean((1, 2)), VALUES["reward_before"]
    steps = np.arange(float(N))
    linear = affine(VALUES["p_gap"], mean, steps)
    assert result.laws["affine(p_gap)"].constants == linear.constants
    reached = before + VALUES["probe_step"]
    rate = (special.logit(reached) - special.logit(before)) / 7.5  # half of 15 updates on average
    law = saturating(rate, before, GAINS.mean(1), np.array([10.0, 20.0]), steps)
    found = result.laws["saturating(probe_step)"]
    assert found.constants["c"] == pytest.approx(law.constants["c"], rel=1e-9)
    np.testing.assert_allclose(found.left_out, law.left_out, rtol=1e-9)
    assert len(result.laws) == 8


def test_the_paper_s_combination_adds_z_scores(result):
    before, mean = VALUES["reward_before"], GAINS.mean((1, 2))
    for name, found in result.combination.items():
        both = stats.zscore(before) + stats.zscore(VALUES[name])
        assert found == pytest.approx(stats.spearmanr(both, before + mean).statistic, rel=1e-12)


def test_without_rl_the_scores_are_ranked_and_what_is_null_is_last():
    scores = (measured(0, False), measured(1, False, probe_step=None), measured(2, False))
    found = summarise(CONFIG, Outcome(scores, {}, 0))
    assert not found.trained
    assert (found.predictors, found.laws, found.combination) == ({}, {}, {})
    assert found.ranking[-1] == "runs/step1"
    assert np.isnan(found.rank_intervals[-1]).all()
    assert all(math.isnan(c.gain_mean) and c.gains == () for c in found.checkpoints)
    assert [s["label"] for s in rank([m.measurements for m in scores])][-1] == "step1"


def test_the_prompts_are_those_of_the_best_with_nan_for_null(result):
    assert [p.prompt for p in result.prompts] == ["p", "q", "r"]
    assert math.isnan(result.prompts[1].reward)
    assert math.isnan(result.prompts[2].readiness)
    assert result.prompts[2].verdict == "solved"


def test_one_seed_has_no_deviation_and_no_regret():
    one = measured(0)
    alone = Measured(one.checkpoint, one.score, one.runs[:1], one.seconds)
    found = summarise(CONFIG, Outcome((alone,), {}, 0))
    assert math.isnan(found.checkpoints[0].gain_deviation)
    reasons = found.predictors["probe_step"].reasons
    assert reasons["spearman"] == "fewer than 4 checkpoints"
    assert reasons["regret"].startswith("one seed says neither which checkpoint is the best")
