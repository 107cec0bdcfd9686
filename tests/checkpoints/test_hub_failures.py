"""What goes wrong on the way from the hub, and what is told."""

import errno
import json
import os
import subprocess
import sys
from concurrent.futures import CancelledError

import pytest
from huggingface_hub import constants
from tests.checkpoints.cached import NAMES, PATTERN, REPO, WEIGHTS, environment, half_written, here

from valuegrad.checkpoints import hub as files
from valuegrad.checkpoints.files import content_sha256, fetch
from valuegrad.checkpoints.references import resolve
from valuegrad.cli.app import run
from valuegrad.errors import DownloadError, UserError
from valuegrad.model.policy import load_policy


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
        ("empty", "got a model without weights; wanted weights in safetensors"),
        ("none", "without config.json"),
        ("pickled", "pickled weights only (pytorch_model.bin), which can run code when loaded"),
    ):
        assert run(["score", f"owner/bad@{name}", *flags]) == 2
        assert message in capsys.readouterr().err
    assert hub.downloads(".bin") == hub.downloads(WEIGHTS) == []


def test_code_runs_where_the_flag_says_so(hub):
    good = hub.repos[REPO][NAMES[0]]
    settings = json.loads(good["config.json"])
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    code = (
        b"from transformers import Olmo2Config, Olmo2ForCausalLM\n"
        b"class OwnConfig(Olmo2Config):\n    model_type = 'own'\n"
        b"class OwnModel(Olmo2ForCausalLM):\n    config_class = OwnConfig\n"
    )
    config = json.dumps({**settings, "model_type": "own", "auto_map": names}).encode()
    hub.repos["owner/own"] = {"main": {**good, "config.json": config, "own.py": code}}
    with pytest.raises(UserError, match="trust.remote.code"):
        load_policy("owner/own")
    assert type(load_policy("owner/own", trust_remote_code=True).model).__name__ == "OwnModel"
    before = content_sha256(resolve(["owner/own"])[0])
    hub.repos["owner/own"]["main"]["own.py"] = code + b"#\n"
    assert content_sha256(resolve(["owner/own"])[0]) != before


def test_a_download_that_breaks_off_fails_alone_and_the_next_run_goes_on(
    hub, flags, tmp_path, capsys
):
    path = f"/{REPO}/resolve/{NAMES[1]}/{WEIGHTS}"
    hub.cut[path] = 0
    words = ["score", PATTERN, *flags, "--out", str(tmp_path / "out")]
    assert run(words) == 1
    printed = capsys.readouterr()
    assert [row["revision"] for row in json.loads(printed.out)] == [NAMES[0], *NAMES[2:]]
    assert f"the download of {REPO}@{NAMES[1]} broke off" in printed.err
    assert "run the same command again" in printed.err
    assert half_written() == []
    assert here() == [NAMES[0], *NAMES[2:]]
    hub.cut.clear()
    hub.log.clear()
    assert run(words) == 0
    assert hub.downloads() == [(NAMES[1], WEIGHTS)]
    assert [row["revision"] for row in json.loads(capsys.readouterr().out)] == NAMES


def test_a_connection_that_drops_is_taken_up_where_it_dropped(hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    whole = len(hub.repos[REPO][NAMES[0]][WEIGHTS])
    hub.cut[f"/{REPO}/resolve/{NAMES[0]}/{WEIGHTS}"] = 2 * whole // 3
    (there,) = resolve([f"{REPO}@{NAMES[0]}"])
    data = (fetch(there).path / WEIGHTS).read_bytes()
    assert data == hub.repos[REPO][NAMES[0]][WEIGHTS]
    assert hub.downloads(WEIGHTS) == 2 * [(NAMES[0], WEIGHTS)]


def test_a_server_error_while_downloading_is_told(hub, flags, capsys):
    commit = hub.commit(REPO, NAMES[0])
    hub.status[f"/{REPO}/resolve/{commit}/{WEIGHTS}"] = 507
    assert run(["score", f"{REPO}@{NAMES[0]}", *flags]) == 1
    assert "broke off" in capsys.readouterr().err
    assert half_written() == here() == []


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
    transfer = files.Transfer()
    transfer.stop.set()
    with pytest.raises(CancelledError):
        files.download(there.hub, transfer)
    assert half_written() == here() == []


def test_a_download_larger_than_the_disk_does_not_begin(hub, flags, capsys):
    hub.claimed[WEIGHTS] = 10**16
    assert run(["score", PATTERN, *flags]) == 1
    error = capsys.readouterr().err
    assert "it needs 10.0 PB of" in error
    assert "--cache-limit" in error
    assert hub.downloads(WEIGHTS) == []


def test_a_disk_that_fills_up_while_downloading_is_told(hub, flags, tmp_path):
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    hub.claimed[WEIGHTS] = 10  # The client trusts the header, valuegrad the listing: neither stops.
    home = tmp_path / "small"
    home.mkdir()
    command = f"mount -t tmpfs -o size=60k none {home} && exec {sys.executable} -m valuegrad score"
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", f"{command} {REPO}@{NAMES[0]} {' '.join(flags)}"],
        env=environment(hub, home),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert os.strerror(errno.ENOSPC) in done.stderr
    assert "set HF_HOME to a larger disk" in done.stderr


@pytest.mark.parametrize("text", ["0", "-3GB", "many", "5XB"])
def test_a_limit_that_is_no_size_is_told(text, capsys):
    assert run(["score", "here", f"--cache-limit={text}"]) == 2
    assert "--cache-limit: got " in capsys.readouterr().err
