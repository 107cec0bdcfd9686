"""What the hub's client raises, in valuegrad's own words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from valuegrad.errors import DownloadError, UserError, ValuegradError

UNREACHABLE = (OfflineModeIsEnabled, httpx2.TransportError)
_FAILURES = (*UNREACHABLE, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError)


@contextmanager
def explained(repo: str, revision: str | None = None) -> Iterator[None]:
    """Turn what the client raises inside into a `UserError` or a `DownloadError`.

    Args:
        repo: the repository that is asked for.
        revision: the revision, where there is one.

    Raises:
        UserError: there is no such repository or revision, or no access to it.
        DownloadError: no network, no room on the disk, or a transfer that broke off.
    """
    try:
        yield
    except _FAILURES as error:
        raise _explanation(error, repo, revision) from error


def unreachable(error: BaseException) -> bool:
    """Whether an error says that the hub is not there, rather than that the request was wrong."""
    return isinstance(error, UNREACHABLE) or (
        isinstance(error, HfHubHTTPError) and error.response.status_code >= 500
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def no_hub(subject: str, error: BaseException) -> DownloadError:
    """The message for a hub that cannot be asked about something that is not here either."""
    if isinstance(error, OfflineModeIsEnabled):
        return DownloadError(
            f"{subject} is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids "
            "to ask the hub. Unset HF_HUB_OFFLINE, or name a revision that is there"
        )
    return DownloadError(
        f"{subject} is not here, and the hub at {constants.ENDPOINT} cannot be reached "
        f"({first_line(error)}). Check the network, HF_ENDPOINT and the proxy, and run the same "
        "command again"
    )


def broken_off(name: str, reason: str) -> DownloadError:
    """The message for a transfer that did not come to its end."""
    return DownloadError(
        f"the download of {name} broke off ({reason}). Nothing half-written is kept, files that "
        "arrived whole are; run the same command again to go on from there"
    )


def _explanation(error: Exception, repo: str, revision: str | None) -> ValuegradError:
    name = repo if revision is None else f"{repo}@{revision}"
    page = f"{constants.ENDPOINT}/{repo}"
    if isinstance(error, GatedRepoError):
        return UserError(
            name,
            "a gated repository",
            "one that this account may read",
            f"accept its terms at {page}, then run `hf auth login` or set HF_TOKEN",
        )
    if isinstance(error, RepositoryNotFoundError):
        return UserError(
            name,
            "neither a folder here nor a repository on the hub that this account may read",
            "a checkpoint folder, or owner/name as on the hub",
            f"check {page}; for a private one run `hf auth login` or set HF_TOKEN",
        )
    if isinstance(error, RevisionNotFoundError):
        return UserError(
            name,
            "no such revision",
            "a branch, a tag or a commit of the repository",
            f"list them with `valuegrad checkpoints {repo}`",
        )
    if isinstance(error, HFValidationError):
        return UserError(name, "no name that the hub allows", "owner/name", first_line(error))
    if isinstance(error, OSError) and error.errno is not None:
        return DownloadError(
            f"{name} could not be written to {constants.HF_HUB_CACHE} ({error.strerror}). Nothing "
            "half-written is kept; make room there, set HF_HOME to a larger disk or pass "
            "--cache-limit, and run the same command again"
        )
    cause = error
    while not isinstance(cause, UNREACHABLE) and cause.__cause__ is not None:
        cause = cause.__cause__  # type: ignore[assignment]
    if isinstance(cause, OfflineModeIsEnabled | httpx2.ConnectError):
        return no_hub(name, cause)
    return broken_off(name, first_line(error))
