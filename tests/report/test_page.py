"""The page of a study: what it says and in what order, and that it needs nothing else."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import vl_convert
from tests.report.documents import HOSTILE, document, result, values_of, without_numbers

from valuegrad.errors import RunError
from valuegrad.report.page import page, specifications, write_report
from valuegrad.study.predictors import DEFAULT
from valuegrad.study.result import study_result

TRAINED = ["predictors", "ranking", "gain", "scatter", "readiness", "budgets", "z_scores"]


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


def html(found: Any, specs: dict[str, str] | None = None) -> str:
    """The page of a document, but for the bundled libraries; without figures unless given."""
    return unbundled(page(study_result(found), specs or {}))


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
    return html(document(), specifications(result()))


def test_every_file_is_there_and_the_same_twice(tmp_path: Path) -> None:
    paths = write_report(result(), tmp_path / "once")
    assert paths == [f"figures/{name}.{kind}" for name in TRAINED for kind in ("svg", "png")]
    files = {p.relative_to(tmp_path / "once") for p in (tmp_path / "once").rglob("*.*")}
    assert {str(path) for path in files} == {"report.html", *paths}
    write_report(result(), tmp_path / "twice")
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
    assert "Train step50: probe_step +0.150, measured gain +0.575 ± 0.035 reward" in verdict
    assert "largest gain of 5 checkpoints (regret 0)" in verdict
    assert "Spearman 1.00 (over seeds of RL 0.90 to 1.00 at 95%)" in verdict
    assert "18.8 s against 1 min 56 s" in verdict
    assert whole.index("<h1>") < whole.index("<h2>")


def test_a_checkpoint_that_gained_more_is_named() -> None:
    wrong = document()
    wrong["predictors"][DEFAULT]["regret"] = 0.085
    wrong["checkpoints"][-1] |= {"gain_mean": -0.25, "gains": [[-0.3, -0.2], [-0.3, -0.2]]}
    text = words(html(wrong))
    assert "Train step50: probe_step +0.150, measured gain −0.250 ± 0.035 reward" in text
    assert "while step40 gained most of 5 checkpoints, +0.460 ± 0.028 (regret 0.085)" in text


def test_wall_clock_times_stand_in_their_own_elements_only(whole: str) -> None:
    slower = document()
    slower["seconds"] = {"score": 4321.0, "train": 54321.0}
    for found in slower["checkpoints"]:
        found |= {"seconds": found["seconds"] * 3, "train_seconds": 99.0}
    other = html(slower, specifications(study_result(slower)))
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
    specs = specifications(study_result(hostile))
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
    assert "with probability 75% the highest of 5" in text
    assert "no RL was run" in text
    assert "measured" not in text.split("How it was measured")[0]


@pytest.mark.parametrize("trained", [True, False])
def test_one_checkpoint(tmp_path: Path, trained: bool) -> None:
    write_report(result(1, trained), tmp_path)
    found = unbundled((tmp_path / "report.html").read_text("utf-8"))
    assert "step10" in words(found)
    assert not trained or 'title="fewer than 4 checkpoints">–' in found


@pytest.mark.parametrize("trained", [True, False])
def test_nothing_defined(tmp_path: Path, trained: bool) -> None:
    write_report(study_result(without_numbers(document(trained=trained))), tmp_path)
    found = unbundled((tmp_path / "report.html").read_text("utf-8"))
    text = words(found)
    assert "No checkpoint can be ranked" in text
    assert not re.search(r"\b(None|null|nan|inf)\b", text, re.IGNORECASE)
    dashes = text.count("–")
    assert dashes == len(re.findall(r'title="[^"]+">–<', found)) > 0


def test_laws_stand_in_the_order_of_their_errors_with_what_they_say() -> None:
    found = document()
    found["laws"]["saturating(alignment)"] = {
        **found["laws"]["affine(p_gap)"],
        "constants": {"c": None},
        "leave_one_out_error": None,
        "reason": "all-zero log_odds_rate",
    }
    table = html(found)[html(found).index("Laws from score to gain") :]
    names = re.findall(r"<td><code>([^<]*)</code><td>([^<]*)<td>", table)
    assert names == [
        ("affine(p_gap)", "gain = a + b · p_gap"),
        (f"affine({DEFAULT})", f"gain = a + b · {DEFAULT}"),
        ("saturating(alignment)", "log-odds of the reward rise by c · updates · rate(alignment)"),
    ]
    assert table.count('title="all-zero log_odds_rate">–') == 2


def test_a_file_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("a file where a folder is needed")
    with pytest.raises(RunError, match="could not be written"):
        write_report(result(1, trained=False), tmp_path)


def test_the_page_says_of_how_many_prompts_and_of_which_reward():
    found = document()
    for checkpoint in found["checkpoints"]:
        checkpoint |= {"n_prompts": 64, "n_prompts_available": 1200}
    plain = rendered(study_result(found))
    assert "64 of 1,200" in plain
    assert "as it runs" not in plain
    found["config"]["task"] = {"reward": "my_rewards:graded"}
    assert "my_rewards:graded; what it reads as it runs" in rendered(study_result(found))


def rendered(found):
    return page(found, specifications(found))
