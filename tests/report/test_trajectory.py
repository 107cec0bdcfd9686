"""The checkpoints' axis: by step where steps are known, whatever order they were named in."""

from valuegrad.report.trajectory import checkpoint_axis, checkpoint_rows


def document(*steps):
    return {"checkpoints": [{"step": step, "label": f"c{i}"} for i, step in enumerate(steps)]}


def test_the_axis_goes_by_step():
    named = document(300, 600, 1450, 450)
    assert checkpoint_axis(named, 400).to_dict()["sort"] == ["300", "450", "600", "1,450"]
    assert [row["order"] for row in checkpoint_rows(named)] == [0, 2, 3, 1]
    assert [row["name"] for row in checkpoint_rows(named)] == ["300", "600", "1,450", "450"]


def test_without_steps_the_order_stays():
    for named in (document(600, None, 300), document(300, 100, 100)):
        assert checkpoint_axis(named, 400).to_dict()["sort"] == ["c0", "c1", "c2"]
        assert [row["order"] for row in checkpoint_rows(named)] == [0, 1, 2]
