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
from valuegrad.files import to_json, write_atomically
from valuegrad.report.page import draw, write_report
from valuegrad.report.readiness_figures import readiness
from valuegrad.study.run import Outcome

SUMMARY = "study.json"
PROMPTS = "prompts.parquet"
READINESS = "readiness.parquet"


def write_study(folder: Path, document: Mapping[str, Any], outcome: Outcome) -> dict[str, Any]:
    """Write ``study.json``, ``prompts.parquet``, ``readiness.parquet``, the figures and the page.

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
            "STUDY_DIR",
            f"{folder}, which has no {SUMMARY}",
            "the folder of a study",
            "run `valuegrad study` with --out and name that folder",
        )
    try:
        document = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(
            str(path),
            f"a damaged file ({error})",
            "what `valuegrad study` wrote",
            "run the study again: its records are kept",
        ) from error
    return _with_report(folder, document)


def write_score(folder: Path, document: Mapping[str, Any], outcome: Outcome) -> None:
    """Write the per-prompt rows of scores, and the figure of which prompts are ready.

    Rows that are there of other checkpoints stay: scores of one folder may come one by one.

    Args:
        folder: of the records.
        document: from `summarise`.
        outcome: the records behind it.

    Raises:
        RunError: the disk is full or not writable.
    """
    write_prompts(folder, outcome, keep=True)
    draw(readiness(json.loads(to_json(document))), folder, "readiness")


def write_prompts(folder: Path, outcome: Outcome, *, keep: bool = False) -> None:
    """Write one row a checkpoint and held-out prompt: every measurement, and which to train on.

    Args:
        folder: of the records.
        outcome: the records behind the rows.
        keep: whether rows of checkpoints that are not in the outcome stay.
    """
    every, ready = [], []
    for measured in outcome.measured:
        if rows := measured.score.get("rows"):
            whole = pa.table(
                {"checkpoint": [measured.checkpoint.name] * len(rows["prompt"]), **rows}
            )
            every.append(whole)
            ready.append(_by_readiness(whole))
    for name, tables in ((PROMPTS, every), (READINESS, ready)):
        if tables:
            whole = pa.concat_tables(tables)
            buffer = io.BytesIO()
            pq.write_table(_with_others(folder / name, whole) if keep else whole, buffer)
            write_atomically(folder / name, buffer.getvalue())


def _with_others(path: Path, rows: pa.Table) -> pa.Table:
    """These rows after those of a file that are of other checkpoints, however they are spelt."""
    if not path.is_file():
        return rows
    known = {Path(name).resolve() for name in rows["checkpoint"].to_pylist()}
    try:
        found = pq.read_table(path)
        others = [Path(name).resolve() not in known for name in found["checkpoint"].to_pylist()]
        return pa.concat_tables([found.filter(pa.array(others)), rows], promote_options="default")
    except (pa.ArrowException, KeyError):
        return rows  # Damaged, or another program's; the records behind it are kept.


def _by_readiness(rows: pa.Table) -> pa.Table:
    """The prompts of a checkpoint, those with the most signal × headroom first."""
    names = ["checkpoint", "prompt", "verdict", "readiness", "reward", "signal", "headroom"]
    return rows.select(names).sort_by([("readiness", "descending")])


def _with_report(folder: Path, document: dict[str, Any]) -> dict[str, Any]:
    written = write_report(document, folder)
    document["paths"] = {
        "report": str(folder / written["report"]),
        "figures": [str(folder / name) for name in written["figures"]],
        "records": str(folder / "records"),
        "prompts": str(folder / PROMPTS),
        "readiness": str(folder / READINESS),
    }
    return document
