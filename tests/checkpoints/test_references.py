"""What references mean: folders, patterns, and revisions on the hub."""

import json
import shutil
from pathlib import Path

import pytest
from tests.checkpoints.cached import NAMES, REPO
from tests.checkpoints.folders import make

from valuegrad.checkpoints.files import weights_sha256
from valuegrad.checkpoints.references import resolve
from valuegrad.cli.app import run
from valuegrad.errors import UserError


def test_a_glob_is_sorted_by_step_and_a_folder_named_twice_is_taken_once(tmp_path):
    for step in (100, 20, 3):
        make(tmp_path / f"step{step}")
    make(tmp_path / "stepping")
    (tmp_path / "step5").mkdir()
    found = resolve([f"{tmp_path}/step*", f"{tmp_path}/step20"])
    assert [c.label for c in found] == ["step3", "step20", "step100", "stepping"]
    assert [c.step for c in found] == [3, 20, 100, None]


def test_stages_come_before_steps(tmp_path):
    for name in ("stage2-step10", "stage1-step500", "stage1-step9"):
        make(tmp_path / name)
    labels = [c.label for c in resolve([f"{tmp_path}/stage*"])]
    assert labels == ["stage1-step9", "stage1-step500", "stage2-step10"]


def test_equal_labels_are_told_apart_by_their_parents(tmp_path):
    make(tmp_path / "a" / "step1")
    make(tmp_path / "b" / "step1")
    assert [c.label for c in resolve([f"{tmp_path}/*/step1"])] == ["a/step1", "b/step1"]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("{}/none*", "matches no folder.*Fix: .* holds step1"),
        ("{}/step2", "no such folder.*holds step1"),
        ("{}/file", "got a file"),
    ],
)
def test_a_reference_to_nothing_says_what_is_there(tmp_path, reference, message):
    make(tmp_path / "step1")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=message):
        resolve([reference.format(tmp_path)])


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
    (short,) = resolve([f"{REPO}@{commit[:8]}"])
    assert pinned.commit == short.commit == commit
    assert weights_sha256(pinned) == weights_sha256(resolve([f"{REPO}@{NAMES[0]}"])[0])


def test_a_local_folder_wins_over_the_hub(hub, checkpoint, tmp_path, monkeypatch):
    shutil.copytree(checkpoint("olmo2"), tmp_path / "owner" / "tiny")
    monkeypatch.chdir(tmp_path)
    assert resolve([REPO])[0].path == Path(REPO)
    assert hub.log == []


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("owner/tiny@stage1-stp*", "matches none of its 8 revisions.*near ones are stage1-step"),
        ("owner/tiny@stage1-step1001-tokens1B", "none of its 8.*near ones are stage1-step1000-"),
        ("owner/tiny@" + "0" * 40, "no such revision.*valuegrad checkpoints owner/tiny"),
        ("owner/none", "neither a folder here nor a repository.*hf auth login"),
        ("owner/none@step*", "neither a folder here nor a repository"),
        ("none", "neither a folder here nor a repository"),
        ("owner/-none", "no name that the hub allows|neither a folder"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(hub, flags, capsys, reference, message):
    assert run(["score", reference, *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("valuegrad: ") == 1
    with pytest.raises(UserError, match=message):
        raise UserError(error, "", "", "")
