"""What references mean: folders, patterns, and revisions on the hub."""

import json
import shutil
from pathlib import Path

import pytest
from tests.checkpoints.cached import NAMES, REPO
from tests.checkpoints.folders import make

from valuegrad.checkpoints.files import weights_sha256
from valuegrad.checkpoints.references import _read, resolve
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


def test_labels_go_as_far_up_as_two_checkpoints_differ(tmp_path):
    for parent in "ab":
        make(tmp_path / parent / "seed0" / "step1")
    found = resolve([f"{tmp_path}/*/*/step1"])
    assert [c.label for c in found] == ["a/seed0/step1", "b/seed0/step1"]
    assert [c.label for c in resolve([f"{tmp_path}/a/*/step1"])] == ["step1"]


def test_the_folder_of_a_step_gives_what_it_holds_step_and_label(tmp_path):
    for step in (200, 30, 4):
        make(tmp_path / f"global_step_{step}" / "actor" / "huggingface")
    found = resolve([f"{tmp_path}/*/actor/huggingface"])
    assert [c.step for c in found] == [4, 30, 200]
    assert [c.label for c in found] == ["global_step_4", "global_step_30", "global_step_200"]


@pytest.mark.parametrize(("here", "reference"), [("step7", "."), ("step7/logs", "..")])
def test_a_folder_named_by_its_place_has_its_own_name(tmp_path, monkeypatch, here, reference):
    folder = make(tmp_path / "step7")
    (folder / "logs").mkdir()
    monkeypatch.chdir(tmp_path / here)
    (found,) = resolve([reference])
    assert (found.name, found.label, found.step) == (str(folder), "step7", 7)


def test_relative_and_absolute_references_to_namesakes_are_told_apart(tmp_path, monkeypatch):
    for parent in "ab":
        make(tmp_path / parent / "step1")
    monkeypatch.chdir(tmp_path / "a")
    found = resolve(["step1", f"{tmp_path}/b/step1", "../a/step1"])
    assert [(c.name, c.label) for c in found] == [
        ("step1", "a/step1"),
        (f"{tmp_path}/b/step1", "b/step1"),
    ]


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


def test_namesakes_on_the_hub_are_told_apart_by_their_repositories(hub):
    hub.repos["other/tiny"] = hub.repos[REPO]
    found = resolve([f"{REPO}@stage2-step10", "other/tiny@stage2-step10"])
    assert [c.label for c in found] == ["owner/tiny@stage2-step10", "other/tiny@stage2-step10"]
    assert [c.label for c in resolve([REPO, "other/tiny"])] == [REPO, "other/tiny"]


def test_a_repository_of_one_step_says_it_and_a_commit_says_none(hub):
    name = "owner/llm-1B-step-20k-40b"
    hub.repos[name] = {"main": hub.repos[REPO]["main"]}
    assert [(c.step, c.tokens) for c in resolve([name])] == [(20_000, 40 * 10**9)]
    (pinned,) = resolve([f"{name}@{hub.commit(name, 'main')}"])
    assert (pinned.step, pinned.tokens) == (None, None)
    assert _read("owner/tiny", "1234567", "1234567" + "a" * 33).step is None
    assert _read("owner/tiny", "refs/pr/500", "a" * 40).step is None
    assert _read("owner/tiny", "500", "a" * 40).step == 500


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
