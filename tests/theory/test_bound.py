"""The gap and its bounds over a task: what is measured, and what the summary says of it."""

import math

import pytest

from valuegrad.credit.sampling_gap import sampling_gap
from valuegrad.errors import UserError
from valuegrad.report.bound_figures import bound_chart
from valuegrad.rewards.example import Example
from valuegrad.theory.bound import bound_points, summarise_bounds

EXAMPLES = [Example("label = 'B'\nanswer = '", "B"), Example("x = offset", " total")]
POINT_KEYS = {
    *("checkpoint", "prompt", "position", "entropy", "gap", "bound_trace", "bound_linear"),
    *("bound_entropy", "bound_paper", "product_norm", "smallest_constant", "bound_covariance"),
    *("bound_covariance_norms", "bound_diameter", "bound_diameter_entropy"),
}


@pytest.fixture
def points(policy):
    return bound_points(policy("olmo2"), EXAMPLES, positions=3)


def test_points_are_the_gap_s_own(policy, points):
    chosen = policy("olmo2")
    for example in EXAMPLES:
        mine = [p for p in points if p["prompt"] == example.prompt]
        tokens = chosen.tokenizer(example.prompt + example.answer)["input_ids"]
        prompt = chosen.tokenizer(example.prompt)["input_ids"]
        assert len(mine) == 3
        assert mine[-1]["position"] == len(prompt) - 1
        for point in mine:
            assert set(point) >= POINT_KEYS
            alone = sampling_gap(chosen, tokens, point["position"])
            assert point["gap"] == pytest.approx(alone.gap, rel=1e-8)
            assert point["bound_linear"] == pytest.approx(alone.bound_linear, rel=1e-8)


def test_positions_are_no_more_than_there_are(policy):
    found = bound_points(policy("olmo2"), EXAMPLES[:1], positions=99)
    assert [p["position"] for p in found] == sorted({p["position"] for p in found})


def test_the_summary_counts_and_takes_medians(points):
    summary = summarise_bounds(points, "float64")
    assert (summary["summary"], summary["points"], summary["violations"]) == (True, 6, 0)
    ratios = sorted(p["bound_paper"] / p["bound_linear"] for p in points)
    assert summary["tighter"] == pytest.approx((ratios[2] + ratios[3]) / 2)
    near = sorted(p["bound_covariance"] / p["gap"] for p in points)
    assert summary["covariance_looseness"] == pytest.approx((near[2] + near[3]) / 2)
    assert summary["smallest_constant"] == max(p["smallest_constant"] for p in points)
    (row,) = summary["checkpoints"]
    assert row["points"] == 6


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ("gap", "bound_spectral"),
        ("bound_spectral", "bound_trace"),
        ("bound_trace", "bound_maximum"),
        ("bound_maximum", "bound_paper"),
        ("gap", "bound_linear"),
        ("bound_linear", "bound_paper"),
        ("gap", "bound_covariance"),
        ("bound_covariance", "bound_covariance_norms"),
        ("bound_covariance_norms", "bound_diameter"),
        ("bound_diameter", "bound_diameter_entropy"),
    ],
)
def test_a_broken_link_is_counted(points, low, high):
    points[2][low] = 1.01 * points[2][high]
    assert summarise_bounds(points, "float64")["violations"] == 1


def test_nothing_defined_is_nan(points):
    for point in points:
        point.update(bound_linear=0.0, gap=0.0, smallest_constant=math.nan)
    summary = summarise_bounds(points, "float64")
    assert math.isnan(summary["tighter"])
    assert math.isnan(summary["smallest_constant"])


def test_the_figure_has_a_panel_a_checkpoint(points):
    other = [{**p, "checkpoint": "b", "step": 9} for p in points]
    both = [*points, *other]
    drawn = bound_chart(both, summarise_bounds(both, "float64")).to_dict()
    panels, trajectory = drawn["vconcat"]
    assert [p["title"]["text"] for p in panels["concat"]] == ["olmo2-step7", "b"]
    assert len(trajectory["hconcat"]) == 2
    alone = bound_chart(points, summarise_bounds(points, "float64")).to_dict()
    assert "vconcat" not in alone


def test_bad_input(policy):
    with pytest.raises(UserError, match="positions: got 0"):
        bound_points(policy("olmo2"), EXAMPLES, positions=0)
    with pytest.raises(UserError, match=r"temperature: got -1\.0"):
        bound_points(policy("olmo2"), EXAMPLES, temperature=-1.0)
    with pytest.raises(UserError, match="task: got the prompt"):
        bound_points(policy("olmo2"), [Example("", "B")])
