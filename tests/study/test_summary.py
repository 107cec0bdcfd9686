"""Conclusions from records: every number against its definition written out."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats

from valuegrad.budget import Budget
from valuegrad.checkpoints.checkpoint import Checkpoint
from valuegrad.study.config import StudyConfig
from valuegrad.study.laws import affine, saturating
from valuegrad.study.predictors import PREDICTORS
from valuegrad.study.run import Measured, Outcome
from valuegrad.study.statistics import best_probability, rank_intervals
from valuegrad.study.summary import rank, summarise

BUDGET = Budget(updates=(10, 20), seeds=2)
CONFIG = StudyConfig(("runs/step*",), budget=BUDGET)
N = 6
VALUES = {name: np.random.default_rng(i).uniform(0.01, 0.4, N) for i, name in enumerate(PREDICTORS)}
GAINS = np.random.default_rng(99).uniform(-0.1, 0.3, (N, 2, 2))


def measured(i, trained=True, **changes):
    score = {name: float(column[i]) for name, column in VALUES.items()} | changes
    score |= {"checkpoint": f"runs/step{i}", "label": f"step{i}", "step": i}
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
    values, errors = VALUES["probe_step"], np.full(N, 0.05)
    order = sorted(range(N), key=lambda i: -values[i])
    assert result.ranking == tuple(f"runs/step{i}" for i in order)
    assert result.best == result.ranking[0]
    np.testing.assert_array_equal(result.best_probability, best_probability(values, errors)[order])
    np.testing.assert_array_equal(result.rank_intervals, rank_intervals(values, errors)[order])


def test_predictors_are_held_against_mean_gains_rewards_and_each_budget(result):
    mean = GAINS.mean((1, 2))
    for name, found in result.predictors.items():
        values = VALUES[name]
        expected = stats.spearmanr(values, mean).statistic
        assert found.spearman_gain == pytest.approx(expected, rel=1e-12)
        after = stats.spearmanr(values, VALUES["reward_before"] + mean).statistic
        assert found.spearman_after == pytest.approx(after, rel=1e-12)
        for k in range(2):
            at = stats.spearmanr(values, GAINS[:, :, k].mean(1)).statistic
            assert found.spearman_by_updates[k] == pytest.approx(at, rel=1e-12)
        assert found.regret == pytest.approx(mean.max() - mean[values.argmax()], rel=1e-12)
    assert list(result.predictors) == list(PREDICTORS)


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
    linear = affine(VALUES["p_gap"], mean)
    assert result.laws["affine(p_gap)"].constants == linear.constants
    reached = before + VALUES["probe_step"]
    rate = (special.logit(reached) - special.logit(before)) / 7.5  # half of 15 updates on average
    law = saturating(rate, before, GAINS.mean(1), np.array([10.0, 20.0]))
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


def test_one_seed_has_no_deviation():
    one = measured(0)
    alone = Measured(one.checkpoint, one.score, one.runs[:1], one.seconds)
    found = summarise(CONFIG, Outcome((alone,), {}, 0))
    assert math.isnan(found.checkpoints[0].gain_deviation)
    assert found.predictors["probe_step"].reasons["spearman"] == "fewer than 4 checkpoints"
