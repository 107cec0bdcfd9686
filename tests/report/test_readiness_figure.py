"""Which prompts RL can learn from."""

import pytest
from tests.report.documents import document, result

from valuegrad.report.readiness_figure import readiness
from valuegrad.study.result import study_result


def test_shares_of_each_checkpoint_add_up_and_prompts_are_those_of_the_best():
    spec = readiness(result()).to_dict()
    shares = {}
    (prompts,) = [rows for rows in spec["datasets"].values() if "readiness text" in rows[0]]
    for rows in spec["datasets"].values():
        for row in rows:
            if "share" in row:
                shares.setdefault(row["checkpoint"], []).append(row["share"])
    assert shares["step20"] == [2 / 5, 1 / 5, 2 / 5]
    assert all(sum(parts) == pytest.approx(1) for parts in shares.values())
    assert [row["prompt"] for row in prompts] == ["label = 'B'", "…" + "x" * 60]
    assert spec["title"]["text"].startswith("62% of the prompts are ready for RL at step50")


def test_none_that_is_ready_is_said_in_a_word():
    found = document()
    found["checkpoints"][-1]["verdicts"] = {"ready": 0, "solved": 1, "out of reach": 7}
    title = readiness(study_result(found)).to_dict()["title"]["text"]
    assert title.startswith("None of the prompts are ready")
