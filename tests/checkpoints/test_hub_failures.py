"""What goes wrong on the way from the hub, and what is told."""

import errno
import json
import os
import re
import subprocess
import sys

import pytest
from tests.checkpoints.cached import NAMES, PATTERN, REPO, WEIGHTS, environment, half_written, here

from valuegrad.checkpoints.files import fetch
from valuegrad.checkpoints.references import resolve
from valuegrad.cli.app import run
from valuegrad.errors import UserError


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


def test_a_server_error_while_downloading_is_told(hub, flags, capsys):
    commit = hub.commit(REPO, NAMES[0])
    hub.status[f"/{REPO}/resolve/{commit}/{WEIGHTS}"] = 507
    assert run(["score", f"{REPO}@{NAMES[0]}", *flags]) == 1
    assert "broke off" in capsys.readouterr().err
    assert half_written() == here() == []


def test_a_download_larger_than_the_disk_does_not_begin(hub, flags, capsys):
    hub.claimed[WEIGHTS] = 10**16
    assert run(["score", PATTERN, *flags]) == 1
    error = capsys.readouterr().err
    assert "it needs 10.0 PB of" in error
    assert re.search("cache.limit", error)
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


def test_a_gated_repository_is_told_with_where_to_ask(hub):
    hub.gated.add(REPO)
    (there,) = resolve([REPO])
    with pytest.raises(UserError, match=f"gated repository.*terms at {hub.address}/{REPO},.*login"):
        fetch(there)
    assert half_written() == []
