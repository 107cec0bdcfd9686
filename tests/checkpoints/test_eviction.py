"""A limit on the disk: what goes, what stays, and what was never valuegrad's."""

import json
import os
import re

import pytest
from huggingface_hub import snapshot_download
from tests.checkpoints.cached import NAMES, PATTERN, REPO, WEIGHTS, here, weight_bytes

from valuegrad.checkpoints.eviction import downloaded, evict
from valuegrad.checkpoints.files import fetch
from valuegrad.checkpoints.references import resolve
from valuegrad.cli.app import run


def test_a_limit_evicts_what_is_done_with_and_a_second_run_downloads_nothing(
    hub, flags, tmp_path, trajectory, capsys
):
    limit = ["--cache-limit", str(3 * weight_bytes(trajectory))]
    words = ["score", PATTERN, *flags, *limit, "--out", str(tmp_path / "out")]
    assert run(words) == 0
    assert hub.downloads(WEIGHTS) == [(name, WEIGHTS) for name in NAMES]
    assert here() == NAMES[-3:]
    assert here("config.json") == here("tokenizer.json") == NAMES
    assert sum(f.stat().st_size for files in downloaded().values() for f in files) <= int(limit[1])
    hub.log.clear()
    assert run(words) == 0
    assert hub.log == [("GET", f"/api/models/{REPO}/refs")]
    first, again = capsys.readouterr().out.split("]\n[")
    assert json.loads(first + "]") == json.loads("[" + again)
    # Other records: what went is downloaded again; what is needed last goes for it first.
    assert run([*words[:-1], str(tmp_path / "other")]) == 0
    assert hub.downloads(WEIGHTS) == [(name, WEIGHTS) for name in NAMES if name != NAMES[3]]


def test_what_others_downloaded_is_used_and_never_evicted(hub, flags, trajectory):
    for name in NAMES[:2]:
        snapshot_download(REPO, revision=name)
    hub.log.clear()
    assert run(["score", PATTERN, *flags, "--cache-limit", str(weight_bytes(trajectory))]) == 0
    assert hub.downloads(WEIGHTS) == [(name, WEIGHTS) for name in NAMES[2:]]
    assert here() == [*NAMES[:2], NAMES[-1]]


@pytest.mark.parametrize("text", ["0", "-3GB", "many", "5XB"])
def test_a_limit_that_is_no_size_is_told(text, capsys):
    assert run(["score", "here", f"--cache-limit={text}"]) == 2
    assert re.search("cache.limit: got .* a size such as 50GB", capsys.readouterr().err)


def test_a_file_that_two_commits_share_counts_once_and_goes_with_the_last(hub):
    first, same = resolve([f"{REPO}@{NAMES[-1]}", REPO])
    hub.repos[REPO]["main"]["README.md"] = b"another commit with the same weights"
    (same,) = resolve([REPO])
    assert first.commit != same.commit
    for there in (first, same):
        fetch(there)
    assert len(hub.downloads(WEIGHTS)) == 1
    size = len(hub.repos[REPO]["main"][WEIGHTS])
    assert evict(0, size, [], [])
    assert [file.exists() for files in downloaded().values() for file in files] == [True, True]
    assert not evict(1, size, [first.hub.snapshot], [])
    assert evict(1, size, [], [])
    assert downloaded() == {}
    assert (first.hub.snapshot / "config.json").is_file()


def test_what_others_downloaded_again_is_theirs(hub):
    (there,) = resolve([f"{REPO}@{NAMES[0]}"])
    weights = fetch(there).path / WEIGHTS
    assert list(downloaded()) == [there.hub.snapshot]
    os.utime(weights, ns=(0, 0))
    assert downloaded() == {}
    assert evict(0, 1, [], [])
    assert weights.is_file()


def test_what_others_linked_to_a_download_stays_and_keeps_its_bytes(hub):
    (first,) = resolve([f"{REPO}@{NAMES[-1]}"])
    fetch(first)
    hub.repos[REPO]["main"]["README.md"] = b"another commit with the same weights"
    snapshot_download(REPO, revision="main")
    (same,) = resolve([REPO])
    assert fetch(same).path != first.hub.snapshot
    assert list(downloaded()) == [first.hub.snapshot]
    assert evict(0, 0, [], [])
    assert not (first.hub.snapshot / WEIGHTS).exists()
    assert (same.hub.snapshot / WEIGHTS).read_bytes() == hub.repos[REPO]["main"][WEIGHTS]
