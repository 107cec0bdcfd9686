"""Which checkpoints are downloaded when."""

import json
import re
import shutil
from threading import Event

from huggingface_hub import constants
from tests.checkpoints.cached import NAMES, PATTERN, REPO, WEIGHTS, here, weight_bytes

from valuegrad.checkpoints.hub import download
from valuegrad.cli.app import run
from valuegrad.errors import UserError


def test_the_next_is_downloaded_while_this_one_is_measured(hub, flags, monkeypatch):
    arrived, seen = {name: Event() for name in NAMES}, []

    def downloading(source, transfer):
        folder = download(source, transfer)
        arrived[source.revision].set()
        return folder

    def measured(checkpoint, **_):
        following = NAMES[len(seen) + 1 : len(seen) + 2]
        assert all(arrived[name].wait(60) for name in following)
        seen.append((checkpoint.revision, here()))
        raise UserError("measured", "enough", "no more", "nothing")

    monkeypatch.setattr("valuegrad.checkpoints.prefetch.download", downloading)
    monkeypatch.setattr("valuegrad.study.measuring.load_policy", measured)
    assert run(["score", PATTERN, *flags]) == 2
    ahead = [NAMES[: min(i + 2, len(NAMES))] for i in range(len(NAMES))]
    assert seen == list(zip(NAMES, ahead, strict=True))


def test_a_limit_of_one_is_enough_and_less_is_refused(hub, flags, trajectory, capsys):
    words = ["score", PATTERN, *flags, "--cache-limit"]
    assert run([*words, str(weight_bytes(trajectory))]) == 0
    assert hub.downloads(WEIGHTS) == [(name, WEIGHTS) for name in NAMES]
    assert here() == NAMES[-1:]
    hub.log.clear()
    shutil.rmtree(constants.HF_HUB_CACHE)
    assert run([*words, "100"]) == 2
    assert re.search("cache.limit: got 100 B; wanted enough for owner", capsys.readouterr().err)
    assert hub.downloads(WEIGHTS) == []


def test_runs_of_several_seeds_share_one_download(hub, flags, capsys, trajectory):
    limit = ["--cache-limit", str(weight_bytes(trajectory))]
    words = ["train", f"{REPO}@stage1-step[12]000-*", *flags, "--seeds", "2", *limit]
    assert run(words) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["seed"] for row in rows] == [0, 1, 0, 1]
    assert hub.downloads(WEIGHTS) == [(name, WEIGHTS) for name in NAMES[:2]]


def test_bound_measures_revisions(hub, flags, capsys, trajectory):
    limit = ["--cache-limit", str(weight_bytes(trajectory))]
    words = ["bound", f"{REPO}@stage1-step[12]000-*", *flags[:2], "--examples", "1"]
    assert run([*words, "--positions", "1", "--json", *limit]) == 0
    points = json.loads(capsys.readouterr().out)
    assert [p["checkpoint"] for p in points[:-1]] == [f"{REPO}@{name}" for name in NAMES[:2]]
    assert here() == NAMES[1:2]
