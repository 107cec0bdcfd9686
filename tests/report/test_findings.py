"""What is read off a study's result."""

import numpy as np
from tests.report.documents import document, result

from valuegrad.report.findings import (
    best_measured,
    chosen,
    mean_gains,
    ranked,
    reason,
    seed_range,
    sorted_predictors,
)
from valuegrad.study.predictors import DEFAULT, PREDICTORS
from valuegrad.study.result import study_result


def test_the_chosen_checkpoint_is_first_in_the_ranking():
    assert ranked(result()) == [4, 3, 2, 1, 0]
    assert chosen(result()).label == "step50"


def test_the_best_measured_checkpoint_is_the_first_of_the_highest_gains():
    found = document()
    for row, gain in zip(found["checkpoints"], (None, 0.2, 0.4, 0.4, 0.1), strict=True):
        row["gain_mean"] = gain
    assert best_measured(study_result(found)) == 2
    assert best_measured(result(trained=False)) is None
    assert np.isnan(mean_gains(result(trained=False))).all()


def test_predictors_are_sorted_the_ranking_s_own_first_of_equals():
    found = document()
    found["predictors"]["entropy"]["spearman_gain"] = None
    found["predictors"] = dict(reversed(found["predictors"].items()))
    names = list(sorted_predictors(study_result(found)))
    assert names[0] == DEFAULT
    assert names[-1] == "entropy"


def test_steps_and_tokens_that_are_not_known_are_left_out():
    found = document()
    found["predictors"]["tokens"]["spearman_gain"] = None
    names = set(sorted_predictors(study_result(found)))
    assert names == set(PREDICTORS) - {"tokens"}


def test_the_range_of_the_seeds_is_undefined_with_one_of_its_gains():
    found = document()
    assert seed_range(study_result(found).checkpoints[0]) == (0.11, 0.12)
    found["checkpoints"][0]["gains"][1][1] = None
    assert np.isnan(seed_range(study_result(found).checkpoints[0])).all()
    assert np.isnan(seed_range(result(trained=False).checkpoints[0])).all()


def test_the_first_reason_that_there_is_counts():
    reasons = {"spearman": "constant input", "interval": ""}
    assert reason(reasons, "interval", "spearman") == "constant input"
    assert reason(reasons, "p_value") == "a value that it is made from is undefined"
