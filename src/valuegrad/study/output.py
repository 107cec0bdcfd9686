"""What a study writes beside its records: the summary, the per-prompt rows, the report."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from valuegrad.errors import UserError
from valuegrad.report.page import write_report
from valuegrad.study.records import to_json, write_atomically
from valuegrad.study.run import Outcome

SUMMARY = "study.json"
PROMPTS = "prompts.parquet"


def write_study(folder: Path, document: Mapping[str, Any], outcome: Outcome) -> dict[str, Any]:
    """Write ``study.json``, ``prompts.parquet``, the figures and the page.

    Args:
        folder: the study folder.
        document: from `summarise`.
        outcome: the records behind it.

    Returns:
        The document as JSON values, with the paths of what was written.

    Raises:
        RunError: the disk is full or not writable.
    """
    write_prompts(folder, outcome)
    plain = json.loads(to_json(document))
    write_atomically(folder / SUMMARY, to_json(plain))
    return _with_report(folder, plain)


def rebuild_report(folder: Path) -> dict[str, Any]:
    """Make figures and page anew from a study's summary.

    Args:
        folder: the study folder.

    Returns:
        The study's document with the paths.

    Raises:
        UserError: no summary in the folder, or a damaged one.
    """
    path = folder / SUMMARY
    if not path.is_file():
        raise UserError(
            "STUDY_DIR", f"{folder}, which has no {SUMMARY}", "the folder of a study",
            "run `valuegrad study` with --out and name that folder",
        )  # fmt: skip
    try:
        document = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(
            str(path), f"a damaged file ({error})", "what `valuegrad study` wrote",
            "run the study again: its records are kept",
        ) from error  # fmt: skip
    return _with_report(folder, document)


def write_prompts(folder: Path, outcome: Outcome) -> None:
    """Write one row a checkpoint and held-out prompt, with every per-prompt measurement."""
    tables = []
    for measured in outcome.measured:
        if rows := measured.score.get("rows"):
            names = [measured.checkpoint.name] * len(rows["prompt"])
            tables.append(pa.table({"checkpoint": names, **rows}))
    if tables:
        buffer = io.BytesIO()
        pq.write_table(pa.concat_tables(tables), buffer)
        write_atomically(folder / PROMPTS, buffer.getvalue())


def _with_report(folder: Path, document: dict[str, Any]) -> dict[str, Any]:
    written = write_report(document, folder)
    document["paths"] = {
        "report": str(folder / written["report"]),
        "figures": [str(folder / name) for name in written["figures"]],
        "records": str(folder / "records"),
        "prompts": str(folder / PROMPTS),
    }
    return document
