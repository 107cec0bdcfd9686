"""Where commands print: results to stdout as tables or one JSON document."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from valuegrad.errors import UserError

stdout = Console()


def print_json(value: Any) -> None:
    """Print a result as JSON, and nothing else, on stdout."""
    from valuegrad.study.records import to_json

    sys.stdout.write(to_json(value))


def hide_bars_of_transformers() -> None:
    """Loading and saving take no time worth a bar, and stderr has its own."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def check_folder(flag: str, folder: Path) -> None:
    """Refuse a folder that cannot be written to, or a file in its place, before any work is done.

    Args:
        flag: that names the folder.
        folder: which need not exist.

    Raises:
        UserError: it is a file, lies below one, or may not be written to.
    """
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        got = f"{folder}, a file" if nearest == folder else f"{folder}, below the file {nearest}"
        raise UserError(flag, got, "a folder", "name a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        got = f"{folder}, but {nearest} may not be written to"
        raise UserError(flag, got, "a folder to write to", "name another, or change its rights")
