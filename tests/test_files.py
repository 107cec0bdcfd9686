"""Files: whole or not there, and JSON without NaN."""

import json
import math
import resource

import pytest

from valuegrad.errors import RunError, UserError
from valuegrad.files import check_folder, to_json, write_atomically


def test_json_holds_no_nan():
    assert json.loads(to_json({"a": [math.nan, math.inf, 1.5, None, True, 2]})) == {
        "a": [None, None, 1.5, None, True, 2]
    }


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(RunError):
        write_atomically(path / "below", "new")
    assert path.read_text() == "old"


def test_a_full_disk_says_how_to_go_on(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(RunError, match=r"free some space and run the same command again"):
            write_atomically(tmp_path / "file", "x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_a_folder_to_write_to_need_not_exist(tmp_path):
    folder = tmp_path / "a" / "b"
    assert check_folder("out", folder) == folder
    assert not folder.exists()
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match=r"out: got .*file, a file; wanted a folder"):
        check_folder("out", file)
    with pytest.raises(UserError, match=r"out: got .*below the file"):
        check_folder("out", file / "a" / "b")
