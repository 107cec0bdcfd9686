"""The gain against predictors, and both as z-scores."""

import numpy as np
import pytest
from tests.report.documents import document, result, rows_of

from valuegrad.report.score_figures import scatter, z_scores
from valuegrad.study.predictors import DEFAULT
from valuegrad.study.result import study_result


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


def test_gain_and_prediction_are_in_deviations_and_bars_span_the_numbers_of_updates():
    spec = z_scores(result()).to_dict()
    rows = [row for row in rows_of(spec) if row["series"] == "mean gain"]
    z = (np.arange(5) - 2) / np.std(np.arange(5))
    np.testing.assert_allclose([row["z"] for row in rows], z, atol=1e-12)
    spread = np.array([np.std([0.105 * i, 0.125 * i], ddof=1) for i in range(1, 6)])
    half = spread / np.std([0.115 * i for i in range(1, 6)])
    np.testing.assert_allclose([row["high"] - row["z"] for row in rows], half, rtol=1e-9)


@pytest.mark.parametrize("gains", [[None, 0.1, 0.2, 0.3, 0.4], [0.1] * 5])
def test_gains_without_a_deviation_have_no_z_score(gains):
    found = document()
    for row, gain in zip(found["checkpoints"], gains, strict=True):
        row["gain_mean"] = gain
    rows = rows_of(z_scores(study_result(found)).to_dict())
    for row in rows:
        assert row["low"] is row["high"] is None
        assert (row["z"] is None) == (row["series"] == "mean gain")
