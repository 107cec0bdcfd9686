"""Measured gains beside predictions."""

from tests.report.documents import LAW, document, result, rows_of, values_of

from valuegrad.report.gain_figures import gain
from valuegrad.study.predictors import DEFAULT
from valuegrad.study.result import study_result


def test_the_gain_figure_draws_three_series_in_reward_units():
    spec = gain(result()).to_dict()
    series = {}
    for row in rows_of(spec):
        series.setdefault(row["series"], []).append(row["value"])
    assert series == {
        "measured gain": [0.115 * i for i in range(1, 6)],
        DEFAULT: [0.03 * i for i in range(1, 6)],
        "reward before RL": [0.01 * i for i in range(1, 6)],
    }
    assert spec["title"]["text"] == "step50 gained most: +0.58 reward, probe_step +0.15"
    (first, *_) = rows_of(spec)
    assert (first["low"], first["high"]) == (0.11, 0.12)


def test_nothing_that_was_fitted_to_gains_is_drawn_as_a_prediction():
    found = document()
    found["laws"][LAW] |= {"left_out": [7.77] * 5, "fitted": [8.88] * 5}
    assert not values_of(gain(study_result(found)).to_dict()) & {7.77, 8.88}


def test_a_predictor_that_is_undefined_for_the_best_is_not_in_the_title():
    found = document()
    found["checkpoints"][-1]["probe_step"] = None
    title = gain(study_result(found)).to_dict()["title"]["text"]
    assert title == "step50 gained most: +0.58 reward"
