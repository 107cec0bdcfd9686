"""Files that are whole or not there, and JSON in which the undefined is null."""

import errno
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from valuegrad.errors import RunError, UserError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a crash leaves the old one, the new one or none, never a part."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        fix = "free some space" if full else "see that the folder can be written to"
        raise RunError(
            f"{path} could not be written ({error.strerror}). What was finished before is kept; "
            f"{fix} and run the same command again to go on from there"
        ) from error


def to_json(value: Any) -> str:
    """JSON with NaN and infinities as null, as the JSON standard asks."""
    return json.dumps(plain(value), indent=1, allow_nan=False) + "\n"


def check_folder(argument: str, folder: Path) -> Path:
    """The folder, unless it cannot be written to or is a file."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        got = f"{folder}, a file" if nearest == folder else f"{folder}, below the file {nearest}"
        raise UserError(argument, got, "a folder", "name a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        got = f"{folder}, but {nearest} may not be written to"
        raise UserError(argument, got, "a folder to write to", "name another, or change its rights")
    return folder


def plain(value: Any) -> Any:
    """The value in what JSON has: arrays as lists, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
