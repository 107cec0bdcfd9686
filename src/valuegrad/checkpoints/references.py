"""From references to checkpoints: folders, globs of folders, and revisions on the hub."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from valuegrad.checkpoints.checkpoint import Checkpoint, parse_revision
from valuegrad.checkpoints.hub_cache import HubCommit
from valuegrad.checkpoints.hub_revisions import find
from valuegrad.errors import DownloadError, UserError

_HUB = re.compile(r"(?P<repo>[\w-][\w.-]*(?:/[\w-][\w.-]*)?)(?:@(?P<revision>[\w./*?\[\]!+-]+))?")


def resolve(references: Sequence[str], *, every_revision: bool = False) -> tuple[Checkpoint, ...]:
    """Turn references into checkpoints, each pattern sorted by stage and step.

    A reference is a local folder, a glob of folders (``runs/step*``), or ``repo``,
    ``repo@revision`` or ``repo@pattern*`` on the hub; a folder that exists wins. Names without a
    step keep their natural order after those with one; what is named twice is taken once. Of the
    hub only names and commits are asked for.

    Args:
        references: one or more references.
        every_revision: whether ``repo`` alone stands for all its revisions, not for its main one.

    Returns:
        The checkpoints in order, at least one. That they hold a model is checked by `validate`.

    Raises:
        UserError: a reference matches nothing.
        DownloadError: the hub cannot be reached, and the cache does not know the revision.
    """
    found: dict[object, Checkpoint] = {}
    for reference in references:
        for checkpoint in _matching(reference, every_revision):
            here = checkpoint.path.resolve() if checkpoint.path else checkpoint.name
            found.setdefault(here, checkpoint)
    if not found:
        raise UserError(
            "CHECKPOINT", "no reference", "at least one", "name a folder such as runs/step100"
        )
    return _with_distinct_labels(tuple(found.values()))


def _matching(reference: str, every_revision: bool) -> list[Checkpoint]:
    path = Path(reference).expanduser()
    if path.is_dir():
        return [_checkpoint(path)]
    hub = _HUB.fullmatch(reference)
    if glob.has_magic(reference):
        matches = [Path(p) for p in glob.glob(str(path)) if Path(p).is_dir()]  # noqa: PTH207
        matches = [p for p in matches if (p / "config.json").is_file()]
        if matches:
            return [_checkpoint(p) for p in sorted(matches, key=lambda p: _order(p.name, str(p)))]
        if not hub:
            raise UserError(
                reference,
                "a pattern that matches no folder with a config.json",
                "at least one checkpoint",
                _near_fix(path),
            )
    if path.exists():
        raise UserError(reference, "a file", "a folder with config.json", "name its folder")
    if not hub:
        raise UserError(reference, "no such folder", "a checkpoint folder", _near_fix(path))
    try:
        return _revisions(hub["repo"], hub["revision"] or ("*" if every_revision else None))
    except UserError as error:
        if hub["revision"] is not None or path.parent == Path() or not path.parent.is_dir():
            raise
        fix = f"{_near_fix(path)}; on the hub: {error.fix}"
        raise UserError(error.argument, error.got, error.wanted, fix) from error
    except DownloadError as error:
        if hub["revision"] is not None:
            raise
        # More often a mistyped folder than a repository.
        got, fix = "no folder here, and no answer from the hub", f"{_near_fix(path)}. Or: {error}"
        raise UserError(reference, got, "a checkpoint folder or owner/name", fix) from error


def _revisions(repo: str, wanted: str | None) -> list[Checkpoint]:
    found = find(repo, wanted) if wanted else find(repo)
    checkpoints = []
    for name in sorted(found, key=lambda name: _order(name, name)):
        read = parse_revision(name)
        label = name if wanted else repo.rpartition("/")[2]
        hub = HubCommit(repo, name, found[name])
        full = hub.name if wanted else repo
        checkpoints.append(Checkpoint(full, None, label, name, read.step, read.tokens, hub))
    return checkpoints


def _near_fix(path: Path) -> str:
    parent = path.parent
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    here = sorted(p.name for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))
    listed = ", ".join(here[:6]) + (", …" if len(here) > 6 else "")
    place = "the working folder" if parent == Path() else str(parent)
    return f"check the path: {place} holds " + (listed or "no folder")


def _checkpoint(path: Path) -> Checkpoint:
    revision = parse_revision(path.name)
    return Checkpoint(str(path), path, path.name, None, revision.step, revision.tokens)


def _order(name: str, whole: str) -> tuple[bool, int, int, list[tuple[int, str]]]:
    revision = parse_revision(name)
    pieces = re.split(r"(\d+)", whole)
    natural = [(int(p), "") if p.isdigit() else (0, p) for p in pieces]
    return revision.step is None, revision.stage or 0, revision.step or 0, natural


def _with_distinct_labels(checkpoints: tuple[Checkpoint, ...]) -> tuple[Checkpoint, ...]:
    labels = [c.label for c in checkpoints]
    if len(set(labels)) == len(labels):
        return checkpoints
    return tuple(replace(c, label=f"{_home(c)}/{c.label}") for c in checkpoints)


def _home(checkpoint: Checkpoint) -> str:
    if checkpoint.path is not None:
        return checkpoint.path.parent.name
    return checkpoint.hub.repo.rpartition("/")[2] if checkpoint.hub else ""
