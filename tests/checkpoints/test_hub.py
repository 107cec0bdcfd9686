"""The files of a commit: the real client against a server on the loopback."""

import json
import subprocess
import sys
from concurrent.futures import CancelledError

import pytest
import torch
from huggingface_hub import constants, hf_hub_download, snapshot_download
from tests.checkpoints.cached import (
    NAMES,
    PATTERN,
    REPO,
    STEPS,
    WEIGHTS,
    environment,
    half_written,
    here,
)

from valuegrad.checkpoints.files import content_sha256, fetch, weights_sha256
from valuegrad.checkpoints.hub import Transfer, download, listing, missing
from valuegrad.checkpoints.references import resolve
from valuegrad.cli.app import run
from valuegrad.errors import DownloadError, RunError, UserError
from valuegrad.model.loading import load_policy


def test_six_revisions_are_downloaded_once_in_order_and_a_second_run_downloads_nothing(
    hub, flags, tmp_path, capsys
):
    words = ["score", PATTERN, *flags, "--out", str(tmp_path / "out")]
    assert run(words) == 0
    assert hub.downloads(WEIGHTS) == [(name, WEIGHTS) for name in NAMES]
    first = json.loads(capsys.readouterr().out)
    done = subprocess.run(
        [sys.executable, "-m", "valuegrad", *words],
        env=environment(hub, tmp_path / "hf"),
        capture_output=True,
        text=True,
        check=True,
    )
    again = json.loads(done.stdout)
    assert hub.downloads(WEIGHTS) == [(name, WEIGHTS) for name in NAMES]
    # Configuration and tokenizer are the same in all, and the client's blobs are named by content.
    assert len(hub.downloads()) == len(NAMES) + len(set(hub.downloads("n")))
    assert [row["checkpoint"] for row in first] == [f"{REPO}@{name}" for name in NAMES]
    assert [row["revision"] for row in first] == NAMES
    assert [(row["step"], row["tokens"]) for row in first] == [(s, s * 10**6) for s in STEPS]
    assert [row["commit"] for row in first] == [hub.commit(REPO, name) for name in NAMES]
    assert again == first
    refs = ("GET", f"/api/models/{REPO}/refs")
    assert hub.log[-1] == refs
    assert hub.log.count(refs) == 2


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


def test_pickles_remote_code_and_no_configuration_are_refused_before_a_download(hub, flags, capsys):
    good = hub.repos[REPO][NAMES[0]]
    settings = json.loads(good["config.json"])
    own = {**settings, "model_type": "own", "auto_map": {"AutoModelForCausalLM": "own.Model"}}
    hub.repos["owner/bad"] = {
        "code": {**good, "config.json": json.dumps(own).encode(), "own.py": b"raise SystemExit"},
        "empty": {n: d for n, d in good.items() if n != WEIGHTS},
        "none": {WEIGHTS: good[WEIGHTS]},
        "pickled": {"config.json": good["config.json"], "pytorch_model.bin": b"x"},
    }
    for name, message in (
        ("code", "brings its own code (auto_map in config.json: {'AutoModelForCausalLM': 'own."),
        ("empty", "model.safetensors.index.json; wanted weights in safetensors"),
        ("none", "without config.json"),
        ("pickled", "pickled weights only (pytorch_model.bin), which can run code when loaded"),
    ):
        assert run(["score", f"owner/bad@{name}", *flags]) == 2
        assert message in capsys.readouterr().err
    assert hub.downloads(".bin") == hub.downloads(WEIGHTS) == []


def test_a_connection_that_drops_is_taken_up_where_it_dropped(hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    whole = len(hub.repos[REPO][NAMES[0]][WEIGHTS])
    hub.cut[f"/{REPO}/resolve/{NAMES[0]}/{WEIGHTS}"] = 2 * whole // 3
    (there,) = resolve([f"{REPO}@{NAMES[0]}"])
    data = (fetch(there).path / WEIGHTS).read_bytes()
    assert data == hub.repos[REPO][NAMES[0]][WEIGHTS]
    assert hub.downloads(WEIGHTS) == 2 * [(NAMES[0], WEIGHTS)]


def test_bytes_that_are_not_the_hubs_are_deleted(hub):
    right = hub.repos[REPO][NAMES[0]][WEIGHTS]
    hub.altered[WEIGHTS] = right[:-1] + bytes([right[-1] ^ 1])
    (there,) = resolve([f"{REPO}@{NAMES[0]}"])
    with pytest.raises(DownloadError, match="arrived damaged"):
        fetch(there)
    assert here() == []
    hub.altered.clear()
    assert (fetch(there).path / WEIGHTS).read_bytes() == right


def test_a_download_that_is_stopped_leaves_nothing(hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    (there,) = resolve([f"{REPO}@{NAMES[0]}"])
    content_sha256(there)
    transfer = Transfer()
    transfer.stop.set()
    with pytest.raises(CancelledError):
        download(there.hub, transfer)
    assert half_written() == here() == []


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


def test_a_snapshot_that_lacks_files_is_not_taken_for_whole_without_a_network(hub, monkeypatch):
    hf_hub_download(REPO, "config.json", revision=NAMES[0])
    (there,) = resolve([f"{REPO}@{NAMES[0]}"])
    weights_sha256(there)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match=r"tokenizer.* is not in .*HF_HUB_OFFLINE"):
        fetch(there)


def test_a_cache_that_is_only_read_serves_as_it_is(hub, monkeypatch):
    snapshot_download(REPO, revision=NAMES[0])
    hub.log.clear()

    def refused(path, content):
        raise RunError(f"{path} could not be written")

    monkeypatch.setattr("valuegrad.checkpoints.hub.write_atomically", refused)
    (there,) = resolve([f"{REPO}@{NAMES[0]}"])
    assert (fetch(there).path / WEIGHTS).is_file()
    assert hub.downloads() == []


def test_what_is_missing_is_known_without_a_request_and_shared_files_are_not(hub):
    last, main, other = resolve([f"{REPO}@{NAMES[-1]}", REPO, f"{REPO}@{NAMES[0]}"])
    sizes = {WEIGHTS: len(hub.repos[REPO]["main"][WEIGHTS])}
    listing(other.hub)
    hub.log.clear()
    assert missing(other.hub, [WEIGHTS]) == sizes
    assert hub.log == []
    fetch(last)
    assert missing(last.hub, [WEIGHTS]) == missing(main.hub, [WEIGHTS]) == {}


def test_a_shard_that_the_hub_does_not_have_is_told(hub):
    index = json.dumps({"weight_map": {"w": "model-00001-of-00002.safetensors"}}).encode()
    files = hub.repos[REPO]["main"]
    files["model.safetensors.index.json"] = index
    del files["model.safetensors"]
    with pytest.raises(UserError, match=r"no file model-00001-of-00002.*name a revision"):
        weights_sha256(resolve([REPO])[0])
