"""Records on disk: one file a measurement, whole or not there, keyed by what was measured."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from valuegrad.errors import UserError
from valuegrad.files import to_json, write_atomically


@dataclass(frozen=True)
class Record:
    """One finished measurement.

    Attributes:
        measurement: ``score`` or ``train``.
        inputs: everything that decides the result.
        result: what was measured, plain JSON values.
        seconds: wall-clock time; the only field that differs between two runs.
    """

    measurement: str
    inputs: dict[str, Any]
    result: dict[str, Any]
    seconds: float


class Records:
    """The records of one study folder; a single writer.

    Args:
        folder: the study folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, measurement: str, inputs: Mapping[str, Any]) -> Record | None:
        """The record of a measurement, None where it has not been finished."""
        path = self._path(measurement, inputs)
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text("utf-8"))
            return Record(measurement, found["inputs"], found["result"], found["seconds"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                str(path),
                f"a damaged record ({error})",
                "a record that valuegrad wrote",
                "delete the file; it is measured again",
            ) from error

    def put(self, record: Record) -> None:
        """Write a record; a crash leaves the whole file or none.

        Raises:
            RunError: the disk is full or not writable; what is finished stays.
        """
        whole = {
            "measurement": record.measurement,
            "inputs": record.inputs,
            "result": record.result,
            "provenance": provenance(),
            "seconds": record.seconds,
        }
        write_atomically(self._path(record.measurement, record.inputs), to_json(whole))

    def _path(self, measurement: str, inputs: Mapping[str, Any]) -> Path:
        text = json.dumps([measurement, inputs], sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:32]
        return self.folder / "records" / f"{measurement}-{key}.json"


def claim(folder: Path, resolved: str) -> bool:
    """Make a folder this configuration's, or find that it is already.

    The list of checkpoints may change: a study can grow with the pretraining run it watches.

    Args:
        folder: the study folder.
        resolved: the configuration as JSON.

    Returns:
        Whether the folder is new.

    Raises:
        UserError: it belongs to another configuration, or is no study folder.
    """
    mark = folder / "study-config.json"
    if mark.is_file():
        difference = _difference(mark.read_text("utf-8"), resolved)
        if difference:
            raise UserError(
                "--out",
                f"{folder}, a study with another configuration ({difference})",
                "a new folder or the same configuration",
                "name another folder with --out",
            )
        write_atomically(mark, resolved)
        return False
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        got = f"{folder}, which holds something else"
        raise UserError("--out", got, "a study folder or a new one", "name another folder")
    write_atomically(mark, resolved)
    return True


def forget(folder: Path) -> None:
    """Remove a study folder in which nothing was finished."""
    if not any((folder / "records").glob("*.json")):
        shutil.rmtree(folder, ignore_errors=True)


def provenance() -> dict[str, Any]:
    """What a result was made with: versions, threads, platform."""
    names = ("valuegrad", "torch", "transformers", "numpy", "scipy")
    return {
        "versions": {name: version(name) for name in names},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }


def _difference(known: str, asked: str) -> str:
    try:
        old, new = _flat(json.loads(known)), _flat(json.loads(asked))
    except ValueError:
        return "its study-config.json is damaged"
    # A key that is not there is not a null one: it is of another version.
    both = [(k, *(repr(c[k]) if k in c else "unknown" for c in (old, new))) for k in {**old, **new}]
    changed = [found for found in both if found[0] != "checkpoints" and found[1] != found[2]]
    shown = [f"{key} is {there} there, {here} here" for key, there, here in changed[:3]]
    return "; ".join(shown)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
