"""The predicted ranking beside the measured ranks."""

import math

from tests.report.documents import document, rows_of

from valuegrad.report.ranking_figure import ranking
from valuegrad.study.result import study_result


def test_rows_go_by_the_prediction_and_ranks_count_from_the_highest_gain():
    found = document()
    for row, gain in zip(found["checkpoints"], (0.3, -1.0, None, 0.3, 2.0), strict=True):
        row["gain_mean"] = gain
    rows = rows_of(ranking(study_result(found)).to_dict())
    assert [row["checkpoint"] for row in rows] == [f"step{k}" for k in (50, 40, 30, 20, 10)]
    assert [row["measured"] for row in rows] == [1.0, 2.5, None, 4.0, 2.5]
    assert [row["interval"] for row in rows][:2] == ["1 to 2", "1 to 3"]
    assert rows[0]["chance text"] == "75%"


def test_without_rl_no_rank_is_measured():
    spec = ranking(study_result(document(trained=False))).to_dict()
    assert all(row["measured"] is None for row in rows_of(spec))
    assert "Circle" not in spec["title"]["subtitle"]


def test_a_ranking_by_what_is_undefined_says_so():
    found = study_result({**document(), "best_probability": [None] * 5})
    assert math.isnan(found.best_probability[0])
    title = ranking(found).to_dict()["title"]["text"]
    assert title == "Nothing ranks the checkpoints: probe_step is undefined for all"
