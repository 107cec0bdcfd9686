"""Where commands print: results to stdout as tables or one JSON document."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console

stdout = Console()


def print_json(value: Any) -> None:
    """Print a result as JSON, and nothing else, on stdout."""
    from valuegrad.files import to_json

    sys.stdout.write(to_json(value))


def hide_bars_of_transformers() -> None:
    """Loading and saving take no time worth a bar, and stderr has its own."""
    from transformers.utils import logging

    logging.disable_progress_bar()
