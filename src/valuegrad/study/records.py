"""Records on disk: one file a measurement, whole or not there, keyed by what was measured."""

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
from valuegrad.files import plain, to_json, write_atomically


@dataclass(frozen=True)
class Record:
    """One finished measurement."""

    result: dict[str, Any]
    seconds: float  # wall-clock time, which alone differs between two runs


class Records:
    """The records below a folder; a single writer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "records"

    def path(self, measurement: str, inputs: Mapping[str, Any]) -> Path:
        """Where the record of a measurement is, or will be; `inputs` decide its result."""
        text = json.dumps([measurement, inputs], sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:32]
        return self.folder / f"{measurement}-{key}.json"

    def get(self, measurement: str, inputs: Mapping[str, Any]) -> Record | None:
        """The record of a measurement, None where it has not been finished."""
        path = self.path(measurement, inputs)
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text("utf-8"))
            return Record(found["result"], found["seconds"])
        except (ValueError, KeyError, TypeError) as error:
            got, fix = f"a damaged record ({error})", "delete the file; it is measured again"
            raise UserError(str(path), got, "a record that valuegrad wrote", fix) from error

    def put(self, measurement: str, inputs: Mapping[str, Any], record: Record) -> Record:
        """Write a record, whole or not at all; returns what `get` finds from now on."""
        stored = Record(plain(record.result), record.seconds)
        whole = {
            "measurement": measurement,
            "inputs": inputs,
            "result": stored.result,
            "provenance": provenance(),
            "seconds": stored.seconds,
        }
        write_atomically(self.path(measurement, inputs), to_json(whole))
        return stored


def claim(out: Path, resolved: str) -> bool:
    """Make a folder this configuration's, or refuse one of another; whether it is new."""
    mark = out / "study-config.json"
    new = not mark.is_file()
    if not new and (difference := _difference(mark.read_text("utf-8"), resolved)):
        got = f"{out}, a study with another configuration ({difference})"
        wanted = "a new folder or the same configuration"
        raise UserError("out", got, wanted, "name another folder with `out`")
    if new and out.exists() and (not out.is_dir() or any(out.iterdir())):
        got = f"{out}, which holds something else"
        raise UserError("out", got, "a study folder or a new one", "name another folder")
    write_atomically(mark, resolved)
    return new


def forget(out: Path) -> None:
    """Remove a study folder in which nothing was finished."""
    if not any((out / "records").glob("*.json")):
        shutil.rmtree(out, ignore_errors=True)


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
    # The checkpoints may change: a study can grow with the pretraining run it watches.
    changed = [found for found in both if found[0] != "checkpoints" and found[1] != found[2]]
    return "; ".join(f"{key} is {there} there, {here} here" for key, there, here in changed[:3])


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
