"""Checkpoints on the hub: the real client against a server on the loopback."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import pytest
import torch
from huggingface_hub import constants, snapshot_download
from tests.checkpoints.cached import (
    NAMES,
    PATTERN,
    REPO,
    STEPS,
    WEIGHTS,
    environment,
    here,
    weight_bytes,
)

from valuegrad.checkpoints import eviction
from valuegrad.checkpoints.files import content_sha256, fetch, weights_sha256
from valuegrad.checkpoints.references import resolve
from valuegrad.cli.app import run
from valuegrad.errors import UserError
from valuegrad.model.policy import load_policy


def test_six_revisions_are_downloaded_once_in_order_and_a_second_run_downloads_nothing(
    hub, flags, tmp_path
):
    words = [sys.executable, "-m", "valuegrad", "score", PATTERN, *flags, "--out", "out"]
    scores = []
    for _ in range(2):
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env=environment(hub, tmp_path / "home"),
            capture_output=True,
            text=True,
            check=True,
        )
        scores.append(json.loads(done.stdout))
        assert hub.downloads(WEIGHTS) == [(name, WEIGHTS) for name in NAMES]
    # Configuration and tokenizer are the same in all, and the client's blobs are named by content.
    assert len(hub.downloads()) == len(NAMES) + len(set(hub.downloads("n")))
    first, again = scores
    assert [row["checkpoint"] for row in first] == [f"{REPO}@{name}" for name in NAMES]
    assert [row["revision"] for row in first] == NAMES
    assert [(row["step"], row["tokens"]) for row in first] == [(s, s * 10**6) for s in STEPS]
    assert [row["commit"] for row in first] == [hub.commit(REPO, name) for name in NAMES]
    assert again == first
    refs = ("GET", f"/api/models/{REPO}/refs")
    assert hub.log[-1] == refs
    assert hub.log.count(refs) == 2


def test_a_limit_evicts_what_is_done_with_and_a_second_run_downloads_nothing(
    hub, flags, tmp_path, trajectory, capsys
):
    limit = ["--cache-limit", str(3 * weight_bytes(trajectory))]
    words = ["score", PATTERN, *flags, *limit, "--out", str(tmp_path / "out")]
    assert run(words) == 0
    assert hub.downloads(WEIGHTS) == [(name, WEIGHTS) for name in NAMES]
    assert here() == NAMES[-3:]
    assert here("config.json") == here("tokenizer.json") == NAMES
    assert sum(f.stat().st_size for files in eviction.downloaded().values() for f in files) <= int(limit[1])
    hub.log.clear()
    assert run(words) == 0
    assert hub.log == [("GET", f"/api/models/{REPO}/refs")]
    first, again = capsys.readouterr().out.split("]\n[")
    assert json.loads(first + "]") == json.loads("[" + again)
    # Other records: what went is downloaded again; what is needed last makes room for it first.
    assert run([*words[:-1], str(tmp_path / "other")]) == 0
    assert hub.downloads(WEIGHTS) == [(name, WEIGHTS) for name in NAMES if name != NAMES[3]]


def test_room_for_one_is_enough_and_for_less_is_told(hub, flags, trajectory, capsys):
    words = ["score", PATTERN, *flags, "--cache-limit"]
    assert run([*words, str(weight_bytes(trajectory))]) == 0
    assert hub.downloads(WEIGHTS) == [(name, WEIGHTS) for name in NAMES]
    assert here() == NAMES[-1:]
    hub.log.clear()
    shutil.rmtree(constants.HF_HUB_CACHE)
    assert run([*words, "100"]) == 2
    assert "got 100 B; wanted enough for owner/tiny@" in capsys.readouterr().err
    assert hub.downloads(WEIGHTS) == []


def test_what_others_downloaded_is_used_and_never_evicted(hub, flags, trajectory):
    for name in NAMES[:2]:
        snapshot_download(REPO, revision=name)
    hub.log.clear()
    assert run(["score", PATTERN, *flags, "--cache-limit", str(weight_bytes(trajectory))]) == 0
    assert hub.downloads(WEIGHTS) == [(name, WEIGHTS) for name in NAMES[2:]]
    assert here() == [*NAMES[:2], NAMES[-1]]


def test_the_next_is_downloaded_while_this_one_is_measured(hub, flags, monkeypatch):
    seen, deadline = [], time.monotonic() + 60

    def measured(checkpoint, **_):
        wanted = min(len(seen) + 2, len(NAMES))
        while len(arrived := here()) < wanted and time.monotonic() < deadline:
            Event().wait(0.01)
        seen.append((checkpoint.revision, arrived))
        raise UserError("measured", "enough", "no more", "nothing")

    monkeypatch.setattr("valuegrad.study.run.load_policy", measured)
    assert run(["score", PATTERN, *flags]) == 2
    ahead = [NAMES[: min(i + 2, len(NAMES))] for i in range(len(NAMES))]
    assert seen == list(zip(NAMES, ahead, strict=True))


def test_checkpoints_lists_every_revision_and_downloads_nothing(hub, capsys):
    assert run(["checkpoints", REPO, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["revision"] for row in rows] == [*NAMES, "stage2-step10", "main"]
    assert rows[1] == {
        "checkpoint": f"{REPO}@{NAMES[1]}",
        "revision": NAMES[1],
        "step": 2000,
        "tokens": 2 * 10**9,
        "commit": hub.commit(REPO, NAMES[1]),
    }
    assert hub.log == [("GET", f"/api/models/{REPO}/refs")]


def test_a_repository_alone_is_its_main_revision_and_a_commit_is_one_too(hub):
    (main,) = resolve([REPO])
    assert (main.name, main.label, main.revision) == (REPO, "tiny", "main")
    commit = hub.commit(REPO, NAMES[0])
    (pinned,) = resolve([f"{REPO}@{commit}"])
    assert pinned.commit == commit
    assert weights_sha256(pinned) == weights_sha256(resolve([f"{REPO}@{NAMES[0]}"])[0])


def test_a_local_folder_wins_over_the_hub(hub, checkpoint, tmp_path, monkeypatch):
    shutil.copytree(checkpoint("olmo2"), tmp_path / "owner" / "tiny")
    monkeypatch.chdir(tmp_path)
    assert resolve([REPO])[0].path == Path(REPO)
    assert hub.log == []


def test_a_copy_here_has_the_hash_of_the_hub_where_no_weights_were_downloaded(hub, tmp_path):
    (there,) = resolve([f"{REPO}@{NAMES[2]}"])
    before = weights_sha256(there), content_sha256(there)
    assert hub.downloads(WEIGHTS) == []
    copied = shutil.copytree(fetch(there).path, tmp_path / "copy")
    (copy,) = resolve([str(copied)])
    assert (weights_sha256(copy), content_sha256(copy)) == before
    assert weights_sha256(fetch(there)) == before[0]


def test_shards_are_those_of_the_index(hub, tmp_path, checkpoint):
    torch.manual_seed(0)
    model = load_policy(str(checkpoint("olmo2")), dtype="float32").model
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    found = {p.name: p.read_bytes() for p in (tmp_path / "shards").iterdir()}
    tokenizer = {n: d for n, d in hub.repos[REPO]["main"].items() if n.startswith("tokenizer")}
    extra = {"consolidated.safetensors": b"x", "pytorch_model.bin": b"x", "sub/a.safetensors": b""}
    hub.repos["owner/shards"] = {"main": {**found, **tokenizer, **extra}}
    (there,) = resolve(["owner/shards"])
    known = weights_sha256(there)
    assert hub.downloads(WEIGHTS) == []
    assert weights_sha256(resolve([str(tmp_path / "shards")])[0]) == known
    policy = load_policy(there)
    assert torch.equal(policy.head, model.get_output_embeddings().weight)
    got = {name for _, name in hub.downloads()}
    assert len([name for name in got if name.endswith(".safetensors")]) > 1
    assert not got & set(extra)


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_network_the_cache_is_used(hub, flags, monkeypatch, capsys, offline):
    words = ["score", f"{REPO}@stage1-step[12]000-*", *flags]
    assert run(words) == 0
    known = json.loads(capsys.readouterr().out)
    if offline:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    hub.log.clear()
    assert run(words) == 0
    again = json.loads(capsys.readouterr().out)
    assert [r["weights_sha256"] for r in again] == [r["weights_sha256"] for r in known]
    assert hub.log == []
    assert run(["score", f"{REPO}@{NAMES[5]}", *flags]) == 1
    error = capsys.readouterr().err
    assert ("HF_HUB_OFFLINE forbids" if offline else "cannot be reached") in error
    assert error.count("got ") + error.count("is not") == 1


def test_bound_measures_revisions(hub, flags, capsys, trajectory):
    limit = ["--cache-limit", str(weight_bytes(trajectory))]
    words = ["bound", f"{REPO}@stage1-step[12]000-*", *flags[:2], "--examples", "1"]
    assert run([*words, "--positions", "1", "--json", *limit]) == 0
    points = json.loads(capsys.readouterr().out)
    assert [p["checkpoint"] for p in points[:-1]] == [f"{REPO}@{name}" for name in NAMES[:2]]
    assert here() == NAMES[1:2]


def test_runs_of_several_seeds_share_one_download(hub, flags, capsys, trajectory):
    limit = ["--cache-limit", str(weight_bytes(trajectory))]
    words = ["train", f"{REPO}@stage1-step[12]000-*", *flags, "--seeds", "2", *limit]
    assert run(words) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["seed"] for row in rows] == [0, 1, 0, 1]
    assert hub.downloads(WEIGHTS) == [(name, WEIGHTS) for name in NAMES[:2]]
