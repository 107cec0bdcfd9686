"""From references to checkpoints: folders, globs of folders, and revisions on the hub."""

import glob
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import HfApi, constants, errors

from valuegrad.checkpoints.checkpoint import Checkpoint, HubCommit, cache_folder
from valuegrad.checkpoints.hub_failures import explained, no_hub, unreachable
from valuegrad.checkpoints.names import Revision, labels, parse_revision, training_order
from valuegrad.errors import DownloadError, UserError, first_line

_LOG = logging.getLogger(__name__)
_HUB = re.compile(r"(?P<repo>[\w-][\w.-]*(?:/[\w-][\w.-]*)?)(?:@(?P<revision>[\w./*?\[\]!+-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHORT = re.compile(r"[0-9a-f]{7,39}")  # as the hub takes them


def resolve(references: Sequence[str], *, every_revision: bool = False) -> tuple[Checkpoint, ...]:
    """Turn references into checkpoints, each pattern sorted by stage and step.

    A reference is a local folder, a glob of folders (``runs/step*``), or ``repo``,
    ``repo@revision`` or ``repo@pattern*`` on the hub; a folder that exists wins. Names without a
    step keep their natural order after those with one; what is named twice is taken once. Labels
    are the ends of names, as long as it takes for no two to be alike.

    Args:
        references: one or more references.
        every_revision: whether ``repo`` alone stands for all its revisions, not for its main one.

    Returns:
        The checkpoints in order, at least one. That they hold a model is checked when one is read.

    Raises:
        UserError: a reference matches nothing.
        DownloadError: the hub cannot be reached, and the cache does not know the revision.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as runs:
        ...     for name in ("step20", "step3"):
        ...         Path(runs, name).mkdir()
        ...         _ = Path(runs, name, "config.json").write_text("{}")
        ...     [checkpoint.step for checkpoint in resolve([f"{runs}/step*"])]
        [3, 20]
    """
    found: dict[object, Checkpoint] = {}
    for reference in references:
        for checkpoint in _matching(reference, every_revision):
            here = checkpoint.path.resolve() if checkpoint.path else checkpoint.name
            found.setdefault(here, checkpoint)
    if not found:
        fix = "name a folder such as runs/step100"
        raise UserError("checkpoints", "no reference", "at least one", fix)
    several = tuple(found.values())
    short = labels([_place(c.path) if c.path else c.name for c in several])
    return tuple(replace(c, label=label) for c, label in zip(several, short, strict=True))


def _matching(reference: str, every_revision: bool) -> list[Checkpoint]:
    path, hub = Path(reference).expanduser(), _HUB.fullmatch(reference)
    if path.is_dir():
        return [_local(path)]
    matches = [Path(p) for p in glob.glob(str(path)) if Path(p, "config.json").is_file()]  # noqa: PTH207
    if matches:
        return [_local(p) for p in sorted(matches, key=lambda p: training_order(_place(p)))]
    if path.exists():
        raise UserError(reference, "a file", "a folder with config.json", "name its folder")
    if not hub:
        pattern = glob.has_magic(reference)
        got = "a pattern that matches no folder with a config.json" if pattern else "no such folder"
        raise UserError(reference, got, "a checkpoint folder", _near_folders(path))
    try:
        return _revisions(hub["repo"], hub["revision"] or ("*" if every_revision else None))
    except UserError as error:
        if hub["revision"] is not None or path.parent == Path() or not path.parent.is_dir():
            raise
        fix = f"{_near_folders(path)}; on the hub: {error.fix}"
        raise UserError(error.argument, error.got, error.wanted, fix) from error
    except DownloadError as error:
        if hub["revision"] is not None:
            raise
        # More often a mistyped folder than a repository.
        got, fix = "no folder here, and no answer from the hub", f"{_near_folders(path)}; {error}"
        raise UserError(reference, got, "a checkpoint folder or owner/name", fix) from error


def _local(path: Path) -> Checkpoint:
    place = _place(path)
    # The name of ``.`` would be another folder's tomorrow.
    name, read = str(path) if path.name.strip(".") else place, parse_revision(place)
    return Checkpoint(name, path, place, None, read.step, read.tokens)


def _place(path: Path) -> str:
    """Where a folder is, by the names that lead there: a link is called as it is named."""
    return Path(os.path.abspath(path)).as_posix()  # noqa: PTH100


def _revisions(repo: str, wanted: str | None) -> list[Checkpoint]:
    found = _commits(repo, wanted or constants.DEFAULT_REVISION)
    checkpoints = []
    for name in sorted(found, key=training_order):
        read, hub = _read(repo, name, found[name]), HubCommit(repo, name, found[name])
        whole = hub.name if wanted else repo
        checkpoints.append(Checkpoint(whole, None, whole, name, read.step, read.tokens, hub))
    return checkpoints


def _read(repo: str, revision: str, commit: str) -> Revision:
    if revision == constants.DEFAULT_REVISION:
        return parse_revision(repo)  # TinyLlama has a repository a step.
    hashed = commit.startswith(revision) or revision.startswith("refs/")
    return Revision(None, None, None) if hashed else parse_revision(revision)


def _commits(repo: str, wanted: str) -> dict[str, str]:
    """The revisions that a name or a pattern stands for, name → commit; at least one."""
    no_answer = None
    with explained(repo):
        try:
            refs = HfApi().list_repo_refs(repo)
            known = {ref.name: ref.target_commit for ref in (*refs.tags, *refs.branches)}
        except Exception as error:
            if not unreachable(error):
                raise
            known, no_answer = _cached(repo), error
    pattern = glob.has_magic(wanted)
    if pattern:
        found = {name: known[name] for name in known if fnmatchcase(name, wanted)}
    elif wanted in known or _COMMIT.fullmatch(wanted):
        found = {wanted: known.get(wanted, wanted)}
    else:
        found = (_abbreviated if no_answer else _unlisted)(repo, wanted)
    if no_answer and not found:
        raise no_hub(f"{repo}@{wanted}", no_answer, others=_near(wanted, known))
    if no_answer and not isinstance(no_answer, errors.OfflineModeIsEnabled):
        _LOG.warning(
            f"valuegrad: the hub cannot be reached ({first_line(no_answer)}); of {repo}@{wanted} "
            f"the cache knows {len(found)}"
        )
    if not found:
        got = f"a {'pattern that matches' if pattern else 'name that is'} none of its {len(known)}"
        fix = f"near ones are {_near(wanted, known)}" if known else "name the repository alone"
        raise UserError(f"{repo}@{wanted}", f"{got} revisions", "at least one revision", fix)
    return found


def _cached(repo: str) -> dict[str, str]:
    refs, snapshots = cache_folder(repo) / "refs", cache_folder(repo) / "snapshots"
    files = sorted(path for path in refs.rglob("*") if path.is_file())
    known = {path.relative_to(refs).as_posix(): path.read_text("utf-8").strip() for path in files}
    return {
        name: known[name] for name in known if known[name] and (snapshots / known[name]).is_dir()
    }


def _abbreviated(repo: str, wanted: str) -> dict[str, str]:
    """The one commit in the cache that begins so, if it is one."""
    snapshots = cache_folder(repo) / "snapshots"
    found = [path.name for path in snapshots.glob(f"{glob.escape(wanted)}*") if path.is_dir()]
    whole = len(found) == 1 and _SHORT.fullmatch(wanted) and _COMMIT.fullmatch(found[0])
    return {wanted: found[0]} if whole else {}


def _unlisted(repo: str, wanted: str) -> dict[str, str]:
    """The commit of what is no branch or tag: an abbreviated commit, a pull request."""
    with explained(repo, wanted):
        try:
            return {wanted: str(HfApi().model_info(repo, revision=wanted).sha)}
        except errors.HfHubHTTPError as error:
            if error.response.status_code not in (400, 404):
                raise
    return {}


def _near(wanted: str, known: dict[str, str]) -> str:
    core = re.sub(r"[*?\[\]!]", "", wanted)
    starts = {name: name[: len(core) + 2] for name in known}
    near = sorted(known, key=lambda n: -SequenceMatcher(None, core, starts[n]).ratio())
    return ", ".join(near[:3])


def _near_folders(path: Path) -> str:
    parent = next(folder for folder in path.parents if folder.is_dir())
    here = sorted(p.name for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))
    listed = ", ".join(here[:6]) + (", …" if len(here) > 6 else "")
    place = "the working folder" if parent == Path() else str(parent)
    return f"check the path: {place} holds " + (listed or "no folder")
