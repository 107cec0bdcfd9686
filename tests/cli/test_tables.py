"""Tables for the terminal."""

import io
import math

import pytest
from rich.console import Console
from tests.report.documents import document, result

from valuegrad.cli.tables import (
    bound_table,
    predictor_legend,
    predictor_table,
    score_table,
    study_table,
    table,
    train_table,
    verify_table,
)
from valuegrad.study.predictors import DEFAULT, PREDICTORS
from valuegrad.study.result import study_result
from valuegrad.theory.statement import inequality


def printed(found):
    """The lines of a table as they are in a terminal of 80 columns, cut into words."""
    console = Console(file=io.StringIO(), width=80)
    console.print(found)
    return [line.split() for line in console.file.getvalue().splitlines()]


def test_scores_are_numbered_and_what_is_undefined_is_a_dash():
    found = document(2, trained=False)["checkpoints"]
    found[1]["headroom"] = None
    found[1]["standard_errors"] = {}
    header, first, second = printed(score_table(found))
    assert header[:3] == ["rank", "label", "reward_before"]
    assert first == ["1", "step10", "0.01", "0.03", "0.001", "1e-06", "1e-06"]
    assert second == ["2", "step20", "0.02", "0.06", "–", "–", "1e-05"]


def run(seed, updates, gain, checkpoint="runs/a"):
    row = {"checkpoint": checkpoint, "label": "a", "seed": seed, "updates": updates, "gain": gain}
    return {**row, "reward_before": 0.25, "reward_after": 0.25 + gain}


def test_runs_of_several_seeds_end_with_their_mean_and_deviation():
    runs = [run(s, k, g) for s, k, g in ((0, 1, 0.1), (0, 2, 0.2), (1, 1, 0.3), (1, 2, 0.2))]
    lines = printed(train_table(runs))
    assert len(lines) == 7
    assert lines[-2] == ["a", "mean", "1", "0.25", "0.45", "0.2", "0.141"]
    assert lines[-1] == ["a", "mean", "2", "0.25", "0.45", "0.2", "0"]
    assert len(printed(train_table(runs[:2]))) == 3


def test_runs_from_two_checkpoints_have_no_common_mean_whatever_they_are_called():
    runs = [run(s, 1, g, c) for c, s, g in (("x", 0, 0.1), ("x", 1, 0.3), ("y", 0, 0.5))]
    found = [(line[1], line[5]) for line in printed(train_table(runs))[1:]]
    assert found == [("0", "0.1"), ("1", "0.3"), ("mean", "0.2"), ("0", "0.5"), ("mean", "0.5")]
    assert len(printed(train_table([runs[0], runs[2]]))) == 3


@pytest.mark.parametrize("trained", [True, False])
def test_a_study_s_checkpoints_are_in_order_of_the_prediction(trained):
    header, first, *rest = printed(study_table(result(trained=trained)))
    assert ("gain_mean" in header) == trained
    assert first == ["1", "step50", "0.05", "0.15", "0.75", *["0.575", "0.035"] * trained]
    assert [row[1] for row in rest] == ["step40", "step30", "step20", "step10"]


def test_predictors_are_in_order_of_their_correlation():
    found = document()
    found["predictors"]["entropy"] |= {"spearman_gain": None, "p_value": None}
    header, first, *rest = printed(predictor_table(study_result(found)))
    # A name too wide for its column goes on in a line of its own.
    assert len([line for line in rest if len(line) > 1]) == len(PREDICTORS) - 1
    assert first == [DEFAULT, "1", "0.9", "…", "1", "0.0002", "–", "–", "0"]
    assert rest[-1][:2] == ["entropy", "–"]
    assert {"|reward", "|step"} <= set(header)


def test_the_legend_says_what_each_column_is_over():
    text = predictor_legend(result())
    for part in ("over seeds of RL", "permutations of checkpoints", "given the step", "half of"):
        assert part in text
    assert "p_value" not in predictor_legend(result(2))


def test_a_statement_of_the_paper_that_fails_is_no_alarm():
    holds, fails = inequality("small", "source", 1.0, 2.0), inequality("large", "s", 2.0, 1.0)
    lines = printed(verify_table([holds, fails]))
    assert lines[1] == ["small", "source", "1", "2", "×2", "bound"]
    assert lines[2] == ["large", "s", "2", "1", "×0.5", "NO"]


def test_bounds_are_named_by_their_folder():
    row = {"checkpoint": "runs/step10", "entropy": 0.5, "gap": math.nan}
    assert printed(bound_table({"checkpoints": [row]}))[1] == ["step10", "0.5", *"–––––"]


def test_bounds_of_two_runs_are_told_apart():
    rows = [{"checkpoint": f"runs/{name}/step10"} for name in "ab"]
    found = printed(bound_table({"checkpoints": rows}))
    assert [line[0] for line in found[1:]] == ["a/step10", "b/step10"]


def test_what_is_too_wide_for_the_terminal_is_not_cut_off():
    names = ["a-name-longer-than-its-place-" * 2 + end for end in "xy"]
    found = document(2, trained=False)["checkpoints"]
    lines = printed(score_table([{**f, "label": n} for f, n in zip(found, names, strict=True)]))
    start = next(i for i, line in enumerate(lines) if line[0] == "2")
    for name, part in zip(names, (lines[1:start], lines[start:]), strict=True):
        assert part[0][1] + "".join(line[0] for line in part[1:]) == name
        assert "…" not in "".join(map("".join, part))


def test_numbers_stand_on_the_right():
    found = table(("name", "count"), [{"name": "a", "count": 1}])
    assert [column.justify for column in found.columns] == ["left", "right"]
