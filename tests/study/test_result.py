"""A study's result and its JSON document: the same after a round trip, and refused if damaged."""

import json
import math
from dataclasses import replace

import pytest
from tests.report.documents import document, without_numbers

from valuegrad.files import to_json
from valuegrad.study.result import OUTDATED, study_document, study_result


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("change", [lambda found: found, without_numbers])
def test_a_document_comes_back_key_by_key(trained, change):
    found = change(document(trained=trained))
    assert to_json(study_document(study_result(found))) == to_json(found)


def test_null_is_nan_in_memory_and_keys_of_other_versions_survive():
    found = document()
    found["checkpoints"][0] |= {"gain_mean": None, "forecast": {"reward": [None, 0.5]}}
    result = study_result(found)
    assert math.isnan(result.checkpoints[0].gain_mean)
    assert math.isnan(result.predictors["headroom"].partial_given_reward)
    assert result.checkpoints[0].score["forecast"] == {"reward": [None, 0.5]}
    assert "gain_mean" not in result.checkpoints[0].score
    assert json.loads(to_json(study_document(result))) == found


def test_what_an_earlier_version_meant_otherwise_is_undefined():
    found = document()
    for predictor in found["predictors"].values():
        del predictor["test"], predictor["partial_given_step"]
    old = study_result(found).predictors["probe_step"]
    assert old.spearman_gain == 1.0
    numbers = (*old.spearman_gain_interval, old.p_value, old.regret, old.partial_given_step)
    assert all(map(math.isnan, numbers))
    assert old.reasons["p_value"] == OUTDATED


def test_without_rl_no_gain_is_written():
    untrained = replace(study_result(document()), trained=False)
    (row, *_) = study_document(untrained)["checkpoints"]
    assert not {"gain_mean", "gains", "train_seconds"} & set(row)
    assert row["verdicts"] == {"ready": 1, "solved": 1, "out of reach": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictors": {"entropy": {}}}, "predictors.entropy.spearman_gain: Field required"),
        ({"best_probability": ["often"]}, r"best_probability\.0: .* valid number"),
        ({"checkpoints": [3]}, r"checkpoints\.0: "),
    ],
)
def test_a_document_of_another_version_is_refused_with_the_key(change, message):
    with pytest.raises(ValueError, match=message):
        study_result(document() | change)
