"""The figure of the sampling gap and its bounds, from points of a few checkpoints."""

from valuegrad.report.bound_figures import bound_chart


def point(name, entropy, gap=0.01):
    return {
        "checkpoint": name,
        "entropy": entropy,
        "gap": gap,
        "bound_covariance": 0.02 * entropy,
        "bound_linear": 0.2 * entropy,
        "bound_paper": 3.0,
        "prompt": "x" * 50,
    }


def summary(steps, violations=0):
    checkpoints = [
        {"checkpoint": f"runs/step{i}", "step": step, "gap": 0.01, "entropy": 1.0}
        for i, step in enumerate(steps)
    ]
    verdict = {"points": 9, "violations": violations, "tighter": 12.3, "looseness": 4.0}
    verdict["covariance_looseness"] = 1.26
    return {**verdict, "checkpoints": checkpoints}


def test_a_panel_a_checkpoint_holds_what_has_a_logarithm():
    points = [point("runs/step0", 0.03), point("runs/step0", 2.5), point("runs/step1", 0.0)]
    spec = bound_chart(points, summary([10, 20])).to_dict()
    panels = spec["vconcat"][0]["concat"]
    assert [panel["title"]["text"] for panel in panels] == ["step0", "step1"]
    first, second = (spec["datasets"].get(p["data"]["name"], []) for p in panels)
    assert len(first) == 8
    assert second == []
    x, y = (panels[0]["encoding"][axis] for axis in "xy")
    assert x["scale"]["domain"] == [0.02, 5.0]
    assert y["scale"]["domain"] == [0.0001, 10.0]
    assert x["axis"]["values"][0] == 0.02


def test_the_trajectory_goes_by_step_where_all_have_one():
    points = [point("runs/step0", 1.0), point("runs/step1", 1.0)]
    names = ["step0", "step1"]
    for steps, title, places in (([20, 10], "step", [20, 10]), ([10, None], "checkpoint", names)):
        spec = bound_chart(points, summary(steps)).to_dict()
        panel = spec["vconcat"][1]["hconcat"][0]
        assert panel["layer"][0]["encoding"]["x"]["title"] == title
        rows = spec["datasets"][panel["data"]["name"]]
        assert [row["x"] for row in rows] == places


def test_checkpoints_of_two_runs_have_a_panel_and_a_place_each():
    found = summary([10, 10])
    for row, run in zip(found["checkpoints"], "ab", strict=True):
        row["checkpoint"] = f"runs/{run}/step10"
    spec = bound_chart([point("runs/a/step10", 1.0)], found).to_dict()
    titles = [panel["title"]["text"] for panel in spec["vconcat"][0]["concat"]]
    rows = spec["datasets"][spec["vconcat"][1]["hconcat"][0]["data"]["name"]]
    assert titles == [row["x"] for row in rows] == ["a/step10", "b/step10"]


def test_the_title_counts_what_breaks_a_bound():
    points = [point("runs/step0", 1.0)]
    assert bound_chart(points, summary([1], 2)).to_dict()["title"]["text"] == (
        "2 of 9 points break a bound"
    )
    title = bound_chart(points, summary([1])).to_dict()["title"]["text"]
    assert "covariances is 1.3 times the gap" in title
