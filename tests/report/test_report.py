"""The page and the figures, from small documents of the shape that a study writes."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import vl_convert

from valuegrad.errors import RunError
from valuegrad.report.findings import prediction, ranks
from valuegrad.report.page import page, specifications, write_report
from valuegrad.study.predictors import DEFAULT, PREDICTORS

TRAINED = ["predictors", "ranking", "gain", "scatter", "readiness", "budgets", "z_scores"]
UNTRAINED = ["ranking", "readiness", "components"]
HOSTILE = "<script>alert(1)</script>\"'&]]>"
LAW = f"affine({DEFAULT})"
COMPONENTS = (
    "sigma",
    "lambda_conditional",
    "lambda_sample",
    "alignment",
    "headroom",
    "headroom_pooled",
    "p_alignment",
    "entropy",
    "reward_variance",
    "pass_at_k",
    "gradient_norm",
)


def checkpoint(i: int, trained: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "checkpoint": f"runs/step{10 * i}",
        "label": f"step{10 * i}",
        "step": 10 * i,
        "revision": None,
        "tokens": None,
        "task": "label-copy",
        "method": "grpo",
        "site": "final",
        "alpha": 5.0,
        "n_prompts": 8,
        "group_size": 4,
        "learning_rate": 2e-4,
        "updates": [10, 20],
        "reward_before": 0.01 * i,
        "probe_step": 0.03 * i,
        "p_gap": -(10.0 ** (i - 8)),
        "p_gap_conditional": -(10.0 ** (i - 9)),
        "seconds": 1.25 * i,
        **dict.fromkeys(COMPONENTS, 10.0 ** (i - 7)),
        "standard_errors": {"probe_step": 0.001},
    }
    found["verdicts"] = {"ready": i, "solved": 1, "out of reach": 2}
    if trained:
        gains = [[0.1 * i, 0.12 * i], [0.11 * i, 0.13 * i]]
        found |= {
            "gain_mean": 0.115 * i,
            "gain_deviation": 0.007 * i,
            "gains": gains,
            "gain_by_updates": {"10": 0.105 * i, "20": 0.125 * i},
            "reward_after_mean": 0.125 * i,
            "train_seconds": 7.75 * i,
        }
    return found


def document(n: int = 5, trained: bool = True) -> dict[str, Any]:
    checkpoints = [checkpoint(i, trained) for i in range(1, n + 1)]
    names = [c["checkpoint"] for c in checkpoints][::-1]
    constant = {"gains": "", "reason": ""} if n < 4 else {}
    rho = None if n < 4 else 1.0
    predictor = {
        "spearman_gain": rho,
        "spearman_gain_interval": [None, None] if n < 4 else [0.9, 1.0],
        "p_value": None if n < 4 else 0.0002,
        "partial_given_reward": None,
        "spearman_after": rho,
        "spearman_by_updates": [rho, rho],
        "regret": 0.0,
        "reasons": {"spearman": "fewer than 4 checkpoints"} if n < 4 else {},
    }
    predictors = {name: deepcopy(predictor) for name in PREDICTORS}
    if n >= 4:
        for name in ("p_gap", "p_gap_conditional"):
            predictors[name] |= {"spearman_gain": -1.0, "spearman_gain_interval": [-1.0, -0.9]}
            predictors[name]["regret"] = 0.46
    law = {
        "constants": {"a": None if n < 4 else 0.01, "b": None if n < 4 else 3.8},
        "leave_one_out_error": None if n < 4 else 0.02,
        "fitted": [None if n < 4 else 0.11 * i for i in range(1, n + 1)],
        "left_out": [None if n < 4 else 0.12 * i for i in range(1, n + 1)],
        "reason": "fewer than 4 checkpoints" if n < 4 else "",
        **constant,
    }
    config = {"budget": {"prompts_per_update": 4, "seeds": 2}, "dtype": "float32"}
    return {
        "ranking": names,
        "best": names[0],
        "rank_intervals": [[max(i - 1.0, 1.0), min(i + 1.0, float(n))] for i in range(1, n + 1)],
        "best_probability": [0.75, 0.25, *[0.0] * (n - 2)] if n > 1 else [1.0],
        "ranked_by": DEFAULT,
        "trained": trained,
        "predictors": predictors if trained else {},
        "laws": {LAW: law, "affine(p_gap)": {**law, "leave_one_out_error": 0.001}}
        if trained
        else {},
        "combination": {DEFAULT: rho, "p_gap": None} if trained else {},
        "failures": {},
        "seconds": {"score": 18.75, "train": 116.25 if trained else 0.0},
        "config": config,
        "checkpoints": checkpoints,
        "prompts": [
            {"prompt": "label = 'B'", "reward": 0.25, "readiness": 0.01, "verdict": "ready"},
            {"prompt": "x" * 80, "reward": 0.01, "readiness": 0.0, "verdict": "out of reach"},
        ],
    }


def without_numbers(value: Any) -> Any:
    """The same document with every measured number undefined."""
    if isinstance(value, dict):
        keep = ("seconds", "config", "step", "updates", "n_prompts", "group_size", "learning_rate")
        return {k: v if k in keep else without_numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_numbers(v) for v in value]
    return None if isinstance(value, float) else value


def values_of(spec: Any) -> set[Any]:
    """Every string and number in the data of a specification."""
    rows = [row for values in spec["datasets"].values() for row in values]
    return {value for row in rows for value in row.values()}


class Page(HTMLParser):
    """A page taken apart: text inside and outside ``data-timing``, links, scripts."""

    OPTIONAL = ("tr", "th", "td", "dt", "dd")  # may lack an end tag

    def __init__(self, html: str) -> None:
        super().__init__()
        self.timings: list[str] = []
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self.specs: dict[str, Any] = {}
        self._timed: str | None = None
        self._styled = False
        self._script: dict[str, str | None] | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.links += [found[name] or "" for name in ("src", "href", "srcset") if name in found]
        if self._timed in self.OPTIONAL and tag in self.OPTIONAL:
            self._timed = None
        if "data-timing" in found:
            self._timed = tag
        if tag == "script":
            self._script = found
        self._styled = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        if tag == self._timed or (self._timed in self.OPTIONAL and tag in ("table", "dl")):
            self._timed = None
        if tag == "script":
            self._script = None
        self._styled = False

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            if self._script.get("type") == "application/json":
                self.specs[str(self._script["id"])] = json.loads(data)
            self.scripts.append(data)
        elif self._timed is not None:
            self.timings.append(data)
        elif not self._styled:
            self.text += data


def html(found: dict[str, Any], specs: dict[str, str] | None = None) -> str:
    """The page of a document, but for the bundled libraries; without figures unless given."""
    return unbundled(page(found, specs or {}))


def unbundled(whole: str) -> str:
    parts = whole.split(vl_convert.javascript_bundle())
    assert len(parts) == 2
    return parts[0] + parts[1]


def words(html: str) -> str:
    """The text of a page outside scripts and timings, with single spaces."""
    return " ".join(Page(html).text.split())


def untimed(html: str) -> str:
    return re.sub(r"(<(span|dd) data-timing>)[^<]*", r"\1", html)


@pytest.fixture(scope="module")
def whole() -> str:
    return html(document(), specifications(document()))


def test_every_file_is_there_and_the_same_twice(tmp_path: Path) -> None:
    paths = write_report(document(), tmp_path / "once")
    assert paths == {
        "report": "report.html",
        "figures": [f"figures/{name}.{kind}" for name in TRAINED for kind in ("svg", "png")],
    }
    files = {p.relative_to(tmp_path / "once") for p in (tmp_path / "once").rglob("*.*")}
    assert {str(path) for path in files} == {paths["report"], *paths["figures"]}
    write_report(document(), tmp_path / "twice")
    for path in files:
        content = (tmp_path / "once" / path).read_bytes()
        assert content == (tmp_path / "twice" / path).read_bytes(), path
        if path.suffix == ".svg":
            assert ElementTree.fromstring(content).tag.endswith("svg")
        elif path.suffix == ".png":
            assert content.startswith(b"\x89PNG")


def test_the_page_needs_nothing_else(whole: str) -> None:
    parts = Page(whole)
    assert parts.links == []
    assert "default-src 'none'" in whole
    assert "@import" not in whole
    assert "url(" not in whole
    assert list(parts.specs) == [f"spec-{name}" for name in TRAINED]
    assert "http" not in whole.replace("https://vega.github.io/schema/", "").replace(
        '<meta http-equiv="Content-Security-Policy"', ""
    )


def test_the_verdict_comes_first_and_says_it_all(whole: str) -> None:
    verdict = re.sub(r"<[^>]*>", "", whole[whole.index("<h1>") : whole.index("</h1>")])
    assert "Train step50: predicted gain +0.600, measured +0.575 ± 0.035 reward" in verdict
    assert "largest gain of 5 checkpoints (regret 0)" in verdict
    assert "Spearman 1.00 (95% interval 0.90 to 1.00)" in verdict
    assert "18.8 s against 1 min 56 s" in verdict
    assert whole.index("<h1>") < whole.index("<h2>")


def test_a_checkpoint_that_gained_more_is_named() -> None:
    wrong = document()
    wrong["predictors"][DEFAULT]["regret"] = 0.085
    wrong["checkpoints"][-1] |= {"gain_mean": -0.25, "gains": [[-0.3, -0.2], [-0.3, -0.2]]}
    text = words(html(wrong))
    assert "Train step50: predicted gain +0.600, measured −0.250 ± 0.035 reward" in text
    assert "while step40 gained most of 5 checkpoints, +0.460 ± 0.028 (regret 0.085)" in text


def test_wall_clock_times_stand_in_their_own_elements_only(whole: str) -> None:
    slower = document()
    slower["seconds"] = {"score": 4321.0, "train": 54321.0}
    for found in slower["checkpoints"]:
        found |= {"seconds": found["seconds"] * 3, "train_seconds": 99.0}
    other = html(slower, specifications(slower))
    assert Page(whole).timings != Page(other).timings
    assert untimed(whole) == untimed(other)


def test_the_gap_is_explained_in_two_sentences(whole: str) -> None:
    start = whole.index('<p id="p-gap">')
    text = re.sub(r"<[^>]*>", "", whole[start : whole.index("</p>", start)])
    assert len(re.findall(r"\.(?:\s|$)", text)) == 2


def test_the_gap_is_not_explained_where_the_explanation_does_not_hold() -> None:
    other = document()
    for found in other["checkpoints"]:
        found["method"] = "dr_grpo"
    assert 'id="p-gap"' not in html(other)


@pytest.mark.parametrize("trained", [True, False])
def test_a_hostile_name_stays_text(trained: bool) -> None:
    hostile = document(trained=trained)
    hostile["checkpoints"][-1] |= {"checkpoint": HOSTILE, "label": HOSTILE, "step": None}
    hostile["ranking"][0] = hostile["best"] = HOSTILE
    hostile["failures"] = {HOSTILE: HOSTILE}
    specs = specifications(hostile)
    found = html(hostile, specs)
    assert "<script>alert" not in found
    assert Page(found).text.count(HOSTILE) >= 4  # title, verdict, ranking, failure
    for name, spec in Page(found).specs.items():
        assert name == "spec-predictors" or HOSTILE in values_of(spec), name
    drawing = ElementTree.fromstring(vl_convert.vegalite_to_svg(specs["ranking"]))
    assert not [e for e in drawing.iter() if e.tag.endswith("script")]


def test_without_training_the_page_says_so() -> None:
    found = html(document(trained=False))
    text = words(found)
    assert "RL is predicted to improve step50 most: probe_step +0.150 reward" in text
    assert "with probability 75% the best of 5" in text
    assert "no RL was run" in text
    assert "measured" not in text.split("How it was measured")[0]


@pytest.mark.parametrize("trained", [True, False])
def test_one_checkpoint(tmp_path: Path, trained: bool) -> None:
    write_report(document(1, trained), tmp_path)
    found = unbundled((tmp_path / "report.html").read_text("utf-8"))
    assert "step10" in words(found)
    assert not trained or 'title="fewer than 4 checkpoints">–' in found


@pytest.mark.parametrize("trained", [True, False])
def test_nothing_defined(tmp_path: Path, trained: bool) -> None:
    write_report(without_numbers(document(trained=trained)), tmp_path)
    found = unbundled((tmp_path / "report.html").read_text("utf-8"))
    text = words(found)
    assert "No checkpoint can be ranked" in text
    assert not re.search(r"\b(None|null|nan|inf)\b", text, re.IGNORECASE)
    dashes = text.count("–")
    assert dashes == len(re.findall(r'title="[^"]+">–<', found)) > 0


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("undefined", [[], ["step"], ["probe_step", "p_gap", "gain_mean", "sigma"]])
def test_every_checkpoint_is_in_every_figure(undefined: list[str], trained: bool) -> None:
    found = document(trained=trained)
    for i, name in enumerate(undefined):
        found["checkpoints"][i][name] = None
    specs = specifications(found)
    assert list(specs) == (TRAINED if trained else UNTRAINED)
    labels = {c["label"] for c in found["checkpoints"]}
    for name, spec in specs.items():
        assert name == "predictors" or labels <= values_of(json.loads(spec)), name


def test_every_predictor_is_compared_the_best_first() -> None:
    mixed = document()
    mixed["predictors"]["entropy"] |= {
        "spearman_gain": None,
        "spearman_gain_interval": [None, None],
        "reasons": {"spearman": "constant input"},
    }
    for name in ("headroom", "alignment"):
        mixed["predictors"][name]["spearman_gain"] = 0.25
    spec = specifications(mixed)["predictors"]
    order = json.loads(re.findall(r'"domain": (\["[^]]*\])', spec)[0])
    assert sorted(order) == sorted(PREDICTORS)
    assert order[0] == DEFAULT
    assert order[-1] == "entropy"
    assert set(order[-3:-1]) == {"p_gap", "p_gap_conditional"}
    assert "constant input" in values_of(json.loads(spec))


def test_a_file_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("a file where a folder is needed")
    with pytest.raises(RunError, match="could not be written"):
        write_report(document(1, trained=False), tmp_path)


def test_the_prediction_is_the_left_out_one_of_the_best_law_of_the_ranking_predictor() -> None:
    found = prediction(document())
    assert found.law == LAW
    assert found.gains == tuple(document()["laws"][LAW]["left_out"])
    assert prediction(document(2)).law == ""
    assert prediction(document(2)).gains == (0.03, 0.06)


def test_ranks_are_counted_from_the_highest() -> None:
    assert ranks([0.3, -1.0, None, 0.3, 2.0]) == [2.5, 4.0, None, 2.5, 1.0]
