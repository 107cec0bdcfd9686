"""What the hub's client raises, in valuegrad's own words."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx2
from huggingface_hub import constants, errors

from valuegrad.errors import DownloadError, UserError, ValuegradError, first_line

_UNREACHABLE = (errors.OfflineModeIsEnabled, httpx2.TransportError)
_FAILURES = (*_UNREACHABLE, errors.HFValidationError, OSError)  # the client's others are OSErrors
_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What was asked for, what could have been, and the fix; a gated repository is one not found, too.
_WRONG_REQUESTS = {
    errors.GatedRepoError: (
        "a gated repository",
        "one that this account may read",
        "accept its terms at {page}, then run `hf auth login` or set HF_TOKEN",
    ),
    errors.RepositoryNotFoundError: (
        "neither a folder here nor a repository on the hub that this account may read",
        "a checkpoint folder, or owner/name as on the hub",
        "check {page}; for a private one run `hf auth login` or set HF_TOKEN",
    ),
    errors.RevisionNotFoundError: (
        "no such revision",
        "a branch, a tag or a commit of the repository",
        "list them with `valuegrad checkpoints {repo}`",
    ),
    errors.HFValidationError: ("no name that the hub allows", "owner/name", "{reason}"),
}


@contextmanager
def explained(repo: str, revision: str | None = None, files: Sequence[str] = ()) -> Iterator[None]:
    """Turn what the client raises inside into a `UserError` or a `DownloadError`.

    `files` are those that have to be downloaded; without them the cache is only read.
    """
    try:
        yield
    except _FAILURES as error:
        name = f"{repo}@{revision}" if revision else repo
        raise _explanation(error, repo, name, files) from error


def unreachable(error: BaseException) -> bool:
    """Whether an error says that the hub is not there, rather than that the request was wrong."""
    return isinstance(error, _UNREACHABLE) or (
        isinstance(error, errors.HfHubHTTPError) and error.response.status_code >= 500
    )


def no_hub(
    name: str, error: BaseException, files: Sequence[str] = (), others: str = ""
) -> DownloadError:
    """The error for a hub that cannot be asked about something that is not here either."""
    there = f" ({others})" if others else ""
    why = f"the hub at {constants.ENDPOINT} cannot be reached ({first_line(error)})"
    fix = "check the network, HF_ENDPOINT and the proxy, and run the same command again"
    if isinstance(error, errors.OfflineModeIsEnabled):
        why = "HF_HUB_OFFLINE forbids to ask the hub"
        fix = f"unset HF_HUB_OFFLINE, or name a revision that is there{there}"
    return DownloadError(
        f"{_subject(name, files)} is not in {constants.HF_HUB_CACHE}, and {why}; {fix}"
    )


def _subject(name: str, files: Sequence[str]) -> str:
    listed = ", ".join(files[:3]) + (", …" if len(files) > 3 else "")
    return f"{listed} of {name}" if files else name


def _explanation(error: Exception, repo: str, name: str, files: Sequence[str]) -> ValuegradError:
    for kind, (got, wanted, fix) in _WRONG_REQUESTS.items():
        if isinstance(error, kind):
            page, reason = f"{constants.ENDPOINT}/{repo}", first_line(error)
            return UserError(name, got, wanted, fix.format(page=page, repo=repo, reason=reason))
    number, why = (error.errno, error.strerror) if isinstance(error, OSError) else (None, "")
    if number in _NO_ACCESS:
        what, use = ("downloaded", "written to") if files else ("looked up", "read")
        return DownloadError(
            f"{_subject(name, files)} cannot be {what}: the cache folder {constants.HF_HUB_CACHE} "
            f"cannot be {use} ({error}); set HF_HOME or HF_HUB_CACHE to a folder of your own, and "
            "run the same command again"
        )
    if number in _FULL:
        return DownloadError(
            f"{name} could not be written to {constants.HF_HUB_CACHE} ({why}). Nothing "
            "half-written is kept; free some space there, set HF_HOME to a larger disk or set "
            "`cache_limit`, and run the same command again"
        )
    cause: BaseException = error
    while not isinstance(cause, _UNREACHABLE) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, errors.OfflineModeIsEnabled | httpx2.ConnectError):
        return no_hub(name, cause, files)
    return DownloadError(
        f"the download of {name} broke off ({first_line(error)}). Nothing half-written is kept, "
        "files that arrived whole are; run the same command again to go on from there"
    )
