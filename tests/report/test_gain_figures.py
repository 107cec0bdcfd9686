"""Measured gains beside predictions."""

import pytest
from tests.report.documents import LAW, document, result, rows_of

from valuegrad.report.gain_figures import gain, scatter
from valuegrad.study.predictors import DEFAULT
from valuegrad.study.result import study_result


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


@pytest.mark.parametrize(
    ("rho", "says"),
    [
        ((1.0, -1.0), "The gain rises with probe_step and falls with p_gap"),
        ((0.2, 0.5), "The gain has no clear relation to probe_step and rises with p_gap"),
        ((None, 0.5), "The gain has no defined relation to probe_step and rises with p_gap"),
        ((None, None), "The gain's relation to its predictors is undefined"),
    ],
)
def test_the_scatter_says_how_the_gain_relates_to_two_predictors(rho, says):
    found = document()
    for name, value in zip((DEFAULT, "p_gap"), rho, strict=True):
        found["predictors"][name]["spearman_gain"] = value
    spec = scatter(study_result(found)).to_dict()
    assert spec["title"]["text"] == says
    titles = [panel["title"]["text"] for panel in spec["hconcat"]]
    assert titles[
        1
    ] == f"p_gap: Spearman {'undefined' if rho[1] is None else f'{rho[1]:.2f}'}".replace("-", "−")
    row = rows_of(spec)[0]
    assert row["high"] - row["gain"] == pytest.approx(0.007)
