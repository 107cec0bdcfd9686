"""The comparison of predictors: their order, and what stands beside an undefined one."""

import pytest
from tests.report.documents import document, rows_of

from valuegrad.report.predictor_figure import predictors
from valuegrad.study.predictors import DEFAULT, PREDICTORS
from valuegrad.study.result import study_result


@pytest.fixture
def mixed():
    found = document()
    found["predictors"]["entropy"] |= {
        "spearman_gain": None,
        "spearman_gain_interval": [None, None],
        "reasons": {"spearman": "constant input"},
    }
    for name in ("headroom", "alignment"):
        found["predictors"][name]["spearman_gain"] = 0.25
    return found


def test_every_predictor_is_compared_the_best_first(mixed):
    spec = predictors(study_result(mixed)).to_dict()
    order = [row["predictor"] for row in rows_of(spec)]
    assert sorted(order) == sorted(PREDICTORS)
    assert order[0] == DEFAULT
    assert order[-1] == "entropy"
    assert all(name.startswith("p_gap") for name in order[-5:-1])
    last = rows_of(spec)[-1]
    assert (last["text"], last["why"], last["rho"]) == ("undefined", "constant input", None)
    assert rows_of(spec)[0]["text"] == "1.00 [0.90, 1.00]"


def test_the_title_names_the_best_and_what_the_paper_s_score_does(mixed):
    title = predictors(study_result(mixed)).to_dict()["title"]["text"]
    assert title == "probe_step and 8 others predict the order of the gains best; " + (
        "the paper's p_gap predicts the reverse"
    )
    mixed["predictors"][DEFAULT]["spearman_gain"] = 0.5
    title = predictors(study_result(mixed)).to_dict()["title"]["text"]
    assert title.endswith("; the ranking goes by probe_step")


def test_a_predictor_of_another_version_has_no_meaning_here(mixed):
    mixed["predictors"]["later"] = mixed["predictors"][DEFAULT]
    (row,) = [
        r for r in rows_of(predictors(study_result(mixed)).to_dict()) if r["predictor"] == "later"
    ]
    assert row["meaning"] == ""
