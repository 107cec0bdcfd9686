"""The revisions of a repository: branches, tags and commits, from the hub or from the cache."""

from __future__ import annotations

import difflib
import fnmatch
import glob
import logging
import re

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from valuegrad.checkpoints.hub_cache import HubCommit, cache_folder, write_whole
from valuegrad.checkpoints.hub_failures import (
    UNREACHABLE,
    explained,
    first_line,
    no_hub,
    unreachable,
)
from valuegrad.errors import UserError

_LOG = logging.getLogger(__name__)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def find(repo: str, wanted: str = constants.DEFAULT_REVISION) -> dict[str, str]:
    """The revisions that a name or a pattern stands for.

    Without a network, or with HF_HUB_OFFLINE, what the cache knows is used.

    Args:
        repo: ``owner/name``.
        wanted: a branch, a tag, a commit or a pattern such as ``stage1-step*``.

    Returns:
        Name → commit, in the hub's order; at least one.

    Raises:
        UserError: no such repository or revision, or a pattern that matches none.
        DownloadError: the hub cannot be reached and the cache does not have it.

    Example:
        ``find("allenai/OLMo-2-0425-1B", "stage1-step*")``
    """
    known, missing_hub = _known(repo, wanted)
    if glob.has_magic(wanted):
        found = {name: known[name] for name in known if fnmatch.fnmatchcase(name, wanted)}
    elif wanted in known or _COMMIT.fullmatch(wanted):
        found = {wanted: known.get(wanted, wanted)}
    else:
        found = {}
    if found:
        if missing_hub is not None and not isinstance(missing_hub, OfflineModeIsEnabled):
            _LOG.warning(
                "valuegrad: the hub cannot be reached (%s); of %s@%s the cache knows %d",
                first_line(missing_hub),
                repo,
                wanted,
                len(found),
            )
        return found
    if missing_hub is not None:
        raise no_hub(f"{repo}@{wanted}", missing_hub)
    if not glob.has_magic(wanted):
        commit = _commit(repo, wanted)
        if commit is not None:
            return {wanted: commit}
    got = "a pattern that matches none of" if glob.has_magic(wanted) else "a name that is none of"
    raise UserError(
        f"{repo}@{wanted}",
        f"{got} its {len(known)} revisions",
        "at least one revision",
        f"near ones are {', '.join(_near(wanted, list(known)))}"
        if known
        else "name the repository alone",
    )


def remember(source: HubCommit) -> None:
    """Note in the cache which commit a revision is, so that it can be named without a network.

    Only for commits with a snapshot: to the client's own tools a ref without one is damage.
    """
    ref = source.folder / "refs" / source.revision
    known = ref.read_text("utf-8") if ref.is_file() else source.revision
    if known != source.commit:
        write_whole(ref, source.commit)


def _known(repo: str, wanted: str) -> tuple[dict[str, str], Exception | None]:
    """Every branch and tag, and the error where the hub could not be asked."""
    with explained(repo):
        try:
            refs = HfApi().list_repo_refs(repo)
        except (*UNREACHABLE, HfHubHTTPError) as error:
            if not unreachable(error):
                raise
            return _cached(repo), error
    return {ref.name: ref.target_commit for ref in (*refs.tags, *refs.branches)}, None


def _cached(repo: str) -> dict[str, str]:
    folder = cache_folder(repo)
    refs = [path for path in (folder / "refs").rglob("*") if path.is_file()]
    known = {r.relative_to(folder / "refs").as_posix(): r.read_text("utf-8") for r in sorted(refs)}
    return {n: commit for n, commit in known.items() if (folder / "snapshots" / commit).is_dir()}


def _commit(repo: str, wanted: str) -> str | None:
    """The commit of what is no branch or tag: an abbreviated commit, a pull request."""
    with explained(repo, wanted):
        try:
            return HfApi().model_info(repo, revision=wanted).sha
        except HfHubHTTPError as error:
            if error.response.status_code not in (400, 404):
                raise
    return None


def _near(wanted: str, known: list[str]) -> list[str]:
    core = re.sub(r"[*?\[\]!]", "", wanted)

    def likeness(name: str) -> float:
        return difflib.SequenceMatcher(None, core, name[: len(core) + 2]).ratio()

    return sorted(known, key=likeness, reverse=True)[:3]
