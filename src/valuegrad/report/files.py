"""What a study writes beside its records: the summary, the per-prompt rows, the report."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from valuegrad.errors import UserError
from valuegrad.files import to_json, write_atomically
from valuegrad.report.page import draw, write_report
from valuegrad.report.readiness_figure import readiness
from valuegrad.study.result import StudyResult, study_document, study_result
from valuegrad.study.run import Outcome

SUMMARY = "study.json"
PROMPTS = "prompts.parquet"
READINESS = "readiness.parquet"
COLUMNS = ["checkpoint", "prompt", "verdict", "readiness", "reward", "signal", "headroom"]
"""The columns of ``readiness.parquet``, where the prompts that can teach most come first."""


def write_study(folder: Path, result: StudyResult, outcome: Outcome) -> dict[str, Any]:
    """Write ``study.json``, the per-prompt rows, the figures and the page; where they lie."""
    write_prompts(folder, outcome)
    write_atomically(folder / SUMMARY, to_json(study_document(result)))
    return _with_report(folder, result)


def rebuild_report(folder: Path) -> dict[str, Any]:
    """Make figures and page anew from ``study.json``; UserError if that cannot be read."""
    path = folder / SUMMARY
    if not path.is_file():
        got, fix = f"{folder}, which has no {SUMMARY}", "name one that `valuegrad study` wrote"
        raise UserError("STUDY_DIR", got, "the folder of a study", fix)
    try:
        return _with_report(folder, study_result(json.loads(path.read_text("utf-8"))))
    except (ValueError, KeyError) as error:
        got = f"a damaged file, or one of another version ({error})"
        fix = "run the study again: its records are kept"
        raise UserError(str(path), got, "what `valuegrad study` wrote", fix) from error


def write_score(folder: Path, result: StudyResult, outcome: Outcome) -> None:
    """Write the per-prompt rows of scores, beside those that are there, and which are ready."""
    write_prompts(folder, outcome, keep=True)
    draw(readiness(result), folder, "readiness")


def write_prompts(folder: Path, outcome: Outcome, *, keep: bool = False) -> None:
    """Write a row a checkpoint and held-out prompt; `keep` leaves those of other checkpoints."""
    every, ready = [], []
    for measured in outcome.measured:
        if rows := measured.score.get("rows"):
            names = [measured.checkpoint.name] * len(rows["prompt"])
            every.append(pa.table({"checkpoint": names, **rows}))
            ready.append(every[-1].select(COLUMNS).sort_by([("readiness", "descending")]))
    for name, tables in ((PROMPTS, every), (READINESS, ready)):
        if tables:
            whole = pa.concat_tables(tables, promote_options="default")
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


def _with_report(folder: Path, result: StudyResult) -> dict[str, Any]:
    figures = [str(folder / name) for name in write_report(result, folder)]
    names = {"records": "records", "prompts": PROMPTS, "readiness": READINESS}
    others = {what: str(folder / name) for what, name in names.items()}
    return {"report": str(folder / "report.html"), "figures": figures, **others}
