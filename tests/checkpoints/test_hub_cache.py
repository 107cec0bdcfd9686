"""The hub's cache is the user's: filled by others, perhaps only to be read, never taken away."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download, snapshot_download
from tests.checkpoints.cached import NAMES, REPO, STEPS, WEIGHTS, environment
from transformers import AutoModelForCausalLM, AutoTokenizer

from valuegrad.checkpoints.eviction import NOTES
from valuegrad.checkpoints.files import content_sha256, fetch, weights_sha256
from valuegrad.checkpoints.hub import INDEX
from valuegrad.checkpoints.hub_failures import explained
from valuegrad.checkpoints.references import resolve
from valuegrad.errors import DownloadError

SLASHED = "lr-1e-3/seed-7/step40"


@pytest.fixture
def offline(hub, monkeypatch):
    """Return what takes the hub away: forbidden, or not there."""

    def take_away(kind="forbidden"):
        hub.log.clear()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", kind == "forbidden")
        if kind == "away":
            monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")

    return take_away


@pytest.fixture
def shards(hub, trajectory):
    """Return a revision of two weight files, one of them all that is measured."""
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    files = {name: data for name, data in trajectory[NAMES[2]].items() if name != WEIGHTS}
    index = json.dumps({"weight_map": dict(zip("ab", names, strict=True))}).encode()
    data = trajectory[NAMES[2]][WEIGHTS]
    hub.repos[REPO]["shards"] = {**files, INDEX: index, names[0]: data, names[1]: data + b" "}
    return names


def cache():
    return Path(constants.HF_HUB_CACHE) / "models--owner--tiny"


def snapshot(hub, name):
    return cache() / "snapshots" / hub.commit(REPO, name)


def forget_the_list():
    """Leave what clients leave that keep no list of a commit's files."""
    shutil.rmtree(cache() / "trees", ignore_errors=True)


def whole(revision, hub=None):
    snapshot_download(REPO, revision=revision)


def older_client(revision, hub=None):
    whole(revision)
    forget_the_list()


def one_by_one(revision, hub):
    for file in hub.repos[REPO][revision]:
        hf_hub_download(REPO, file, revision=revision)


def loaded(revision, hub=None):
    AutoModelForCausalLM.from_pretrained(REPO, revision=revision)
    AutoTokenizer.from_pretrained(REPO, revision=revision)


def without_links(revision, hub=None):
    whole(revision)
    copy = cache().with_name("copy")
    shutil.copytree(cache(), copy)  # As cp -rL: every link becomes a file.
    shutil.rmtree(copy / "blobs")
    shutil.rmtree(cache())
    copy.rename(cache())


@pytest.mark.parametrize("kind", ["forbidden", "away"])
@pytest.mark.parametrize("fill", [whole, older_client, one_by_one, loaded, without_links])
def test_what_others_downloaded_is_the_same_without_the_hub(
    hub, offline, fill, kind, tmp_path, trajectory
):
    (tmp_path / "local").mkdir()
    for name, data in trajectory[NAMES[1]].items():
        (tmp_path / "local" / name).write_bytes(data)
    (local,) = resolve([str(tmp_path / "local")])
    hub.repos[REPO][SLASHED] = hub.repos[REPO][NAMES[1]]
    fill(SLASHED, hub)
    offline(kind)
    commit = hub.commit(REPO, SLASHED)
    for revision in (SLASHED, commit, commit[:9], "lr-*/seed-7/*"):
        (there,) = resolve([f"{REPO}@{revision}"])
        assert there.commit == commit
        assert weights_sha256(there) == weights_sha256(local)
        assert content_sha256(there) == content_sha256(local)
        assert (fetch(there).path / WEIGHTS).read_bytes() == trajectory[NAMES[1]][WEIGHTS]
    assert hub.log == []


def test_a_cache_that_makes_no_links_is_used(hub, offline, monkeypatch, trajectory):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    whole(NAMES[3])
    assert not (snapshot(hub, NAMES[3]) / WEIGHTS).is_symlink()
    offline()
    (there,) = resolve([f"{REPO}@{NAMES[3]}"])
    assert (fetch(there).path / WEIGHTS).read_bytes() == trajectory[NAMES[3]][WEIGHTS]


def test_a_cache_that_was_moved_behind_a_link_is_used(hub, offline, tmp_path, monkeypatch):
    older_client("main")
    (tmp_path / "hf").rename(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to("elsewhere")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "link" / "hub"))
    offline()
    (there,) = resolve([REPO])
    assert (fetch(there).path / WEIGHTS).is_file()


@pytest.mark.parametrize("keeps_list", [True, False])
@pytest.mark.parametrize(
    "gone", ["model-00002-of-00002.safetensors", INDEX, "tokenizer_config.json", "config.json"]
)
def test_a_snapshot_that_lacks_a_file_is_told_with_its_name(hub, offline, shards, gone, keeps_list):
    assert gone in {*shards, *hub.repos[REPO]["shards"]}
    (whole if keeps_list else older_client)("shards")
    (snapshot(hub, "shards") / gone).unlink()
    offline()
    (there,) = resolve([f"{REPO}@shards"])
    with pytest.raises(DownloadError, match=f"^{gone} of {REPO}@shards is not in .*HF_HUB_OFFLINE"):
        weights_sha256(there)
    assert all((snapshot(hub, "shards") / name).exists() for name in shards if name != gone)


@pytest.mark.parametrize("keeps_list", [True, False])
def test_weights_of_which_a_part_arrived_are_told(hub, offline, keeps_list):
    (whole if keeps_list else older_client)(NAMES[4])
    blob = (snapshot(hub, NAMES[4]) / WEIGHTS).resolve()
    blob.rename(blob.with_name(f"{blob.name}.1a2b3c4d.incomplete"))
    offline("away")
    (there,) = resolve([f"{REPO}@{NAMES[4]}"])
    with pytest.raises(DownloadError, match=f"{WEIGHTS} of {REPO}@{NAMES[4]} is not in .*reached"):
        content_sha256(there)
    if not keeps_list:  # Without its link, either.
        (snapshot(hub, NAMES[4]) / WEIGHTS).unlink()
        with pytest.raises(DownloadError, match=f"^{WEIGHTS} of"):
            content_sha256(there)


def test_weights_that_went_after_valuegrad_used_them_are_told(hub, offline):
    (there,) = resolve([REPO])
    (fetch(there).path / WEIGHTS).unlink()
    offline()
    with pytest.raises(DownloadError, match=f"^{WEIGHTS} of {REPO}@main is not in .*OFFLINE"):
        fetch(there)


def test_a_revision_that_is_not_in_the_cache_is_told_with_those_that_are(hub, offline):
    whole("main")
    commit, other = hub.commit(REPO, "main"), hub.commit(REPO, NAMES[0])
    offline()
    for revision in (NAMES[0], other[:8], commit[:6], "step*"):
        with pytest.raises(DownloadError, match=r"is not in .*a revision that is there \(main\)"):
            resolve([f"{REPO}@{revision}"])
    (there,) = resolve([f"{REPO}@{other}"])
    with pytest.raises(DownloadError, match=f"^{REPO}@{other} is not in"):
        weights_sha256(there)


def test_a_list_of_stop_tokens_that_may_exist_is_told(hub, offline, caplog):
    for file in (WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json"):
        hf_hub_download(REPO, file, revision=NAMES[5])
    offline()
    (there,) = resolve([f"{REPO}@{NAMES[5]}"])
    for _ in range(2):
        content_sha256(there)
    assert caplog.text.count("taken to have no generation_config.json") == 1


@pytest.mark.parametrize("known", ["online", "offline"])
@pytest.mark.parametrize("kind", ["cut", "another byte"])
def test_weights_that_are_not_the_hubs_are_told_and_stay(hub, offline, known, kind):
    whole("main")
    path = snapshot(hub, "main") / WEIGHTS
    right = path.read_bytes()
    wrong = right[:-8] if kind == "cut" else right[:-1] + bytes([right[-1] ^ 1])
    path.write_bytes(wrong)
    if known == "offline":
        offline()
    (there,) = resolve([REPO])
    with pytest.raises(DownloadError, match=r"damaged in the cache.*delete .* with it"):
        fetch(there)
    assert path.read_bytes() == wrong


def test_the_users_revision_moves_when_all_of_the_next_commit_is_here(hub, trajectory):
    whole("main")
    ref, before = cache() / "refs" / "main", hub.commit(REPO, "main")
    hub.repos[REPO]["main"] = dict(trajectory[NAMES[0]])
    (there,) = resolve([REPO])
    content_sha256(there)
    assert there.commit != before
    assert ref.read_text() == before
    fetch(there)
    assert ref.read_text() == there.commit


def test_an_empty_or_broken_name_of_a_revision_is_none(hub, offline):
    whole("main")
    (cache() / "refs" / "broken").write_text("")
    (cache() / "refs" / "main").write_text(hub.commit(REPO, "main") + "\n")
    offline()
    assert [c.commit for c in resolve([f"{REPO}@*"])] == [hub.commit(REPO, "main")]


def _score(hub, home, words, mount="", rights=(), **more):
    """Run `score` where the cache cannot be written to."""
    run = f"{mount} exec {' '.join(rights)} {sys.executable} -m valuegrad score {' '.join(words)}"
    return subprocess.run(
        [*(["unshare", "-Urm"] if mount else []), "sh", "-c", run],
        env={**environment(hub, home), **more},
        capture_output=True,
        text=True,
        check=False,
    )


def _rows(done):
    return [{**row, "seconds": None} for row in json.loads(done.stdout)]


def _read_only_mount(home):
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    return f"mount --bind {home} {home} && mount -o remount,bind,ro {home} &&"


def _bound_by_rights():
    """Return the words before a command for which the rights of files count, also for root."""
    if os.geteuid():
        return []
    if not shutil.which("setpriv"):
        pytest.skip("needs setpriv to be bound by the rights of files")
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]


@pytest.mark.parametrize("how", ["mount", "rights"])
def test_a_cache_that_cannot_be_written_to_is_read(hub, flags, tmp_path, how):
    home = tmp_path / "hf"
    whole(NAMES[0])
    mount, rights = "", []
    if how == "mount":
        mount = _read_only_mount(home)
    else:
        rights = _bound_by_rights()
        for ending in ("json", "kept"):  # Another user's notes.
            note = cache() / NOTES / f"{hub.commit(REPO, NAMES[0])}.{ending}"
            note.parent.mkdir(exist_ok=True)
            note.touch(0)
        for path in (home, *home.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & ~0o222)
    before = sorted(home.rglob("*"))
    try:
        words = [f"{REPO}@{NAMES[0]}", f"{REPO}@{NAMES[1]}", *flags]
        online = _score(hub, home, words, mount, rights)
        assert online.returncode == 1, online.stderr
        (row,) = _rows(online)
        assert (row["step"], row["commit"]) == (STEPS[0], hub.commit(REPO, NAMES[0]))
        assert f"{REPO}@{NAMES[1]} cannot be downloaded: the cache folder {home}" in online.stderr
        assert "set HF_HOME or HF_HUB_CACHE" in online.stderr
        assert "Traceback" not in online.stderr
        assert not re.search("space|disk", online.stderr)
        words = [f"{REPO}@{NAMES[0]}", *flags, "--cache-limit", "1"]
        done = _score(hub, home, words, mount, rights, HF_HUB_OFFLINE="1")
        assert (done.returncode, _rows(done)) == (0, [row]), done.stderr
        assert "damage" not in done.stderr
    finally:
        for path in (home, *home.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | 0o200)
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize(
    ("number", "files", "message"),
    [
        (errno.EACCES, ["a.json"], "^a.json of owner/x@main cannot be downloaded.*written to"),
        (errno.EROFS, ["a"], "^a of owner/x@main .*written to .*set HF_HOME or HF_HUB_CACHE"),
        (errno.EPERM, [], "^owner/x@main cannot be looked up: the cache folder .* be read"),
        (errno.ENOSPC, ["a.json"], "free some space"),
        (errno.EIO, ["a.json"], "broke off"),
    ],
)
def test_only_a_full_disk_is_called_one(number, files, message):
    with pytest.raises(DownloadError, match=message) as caught, explained("owner/x", "main", files):
        raise OSError(number, os.strerror(number), "/somewhere")
    assert ("space" in str(caught.value)) == (number == errno.ENOSPC)
