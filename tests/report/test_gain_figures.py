"""Measured gains beside predictions."""

from tests.report.documents import LAW, document, result, rows_of

from valuegrad.report.gain_figures import gain
from valuegrad.study.predictors import DEFAULT


def test_the_gain_figure_draws_three_series_in_reward_units():
    spec = gain(result()).to_dict()
    series = {}
    for row in rows_of(spec):
        series.setdefault(row["series"], []).append(row["value"])
    assert series == {
        "measured gain": [0.115 * i for i in range(1, 6)],
        f"predicted gain, {LAW}": document()["laws"][LAW]["left_out"],
        "reward before RL": [0.01 * i for i in range(1, 6)],
    }
    assert spec["title"]["text"] == "step50 gained most: +0.58 reward, predicted +0.60"
    (first, *_) = rows_of(spec)
    assert (first["low"], first["high"]) == (0.11, 0.12)


def test_without_a_law_the_predictor_itself_is_drawn():
    spec = gain(result(2)).to_dict()
    assert {row["series"] for row in rows_of(spec)} == {
        "measured gain",
        DEFAULT,
        "reward before RL",
    }
    assert spec["title"]["subtitle"][0].startswith(f"No law of {DEFAULT} could be fitted")
