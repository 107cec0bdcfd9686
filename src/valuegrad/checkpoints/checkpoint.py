"""Which weights: a checkpoint with its name, its step and its place."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name


@dataclass(frozen=True)
class HubCommit:
    """A commit of a repository, and the revision by which the user knows it."""

    repo: str  # owner/name
    revision: str  # branch, tag or commit as the user names it
    commit: str  # its full hash

    @property
    def name(self) -> str:
        """The reference as the user would type it."""
        return f"{self.repo}@{self.revision}"

    @property
    def snapshot(self) -> Path:
        """Where the hub's client puts the files of this commit."""
        return cache_folder(self.repo) / "snapshots" / self.commit


@dataclass(frozen=True)
class Checkpoint:
    """One set of weights, in a local folder or on the hub.

    Attributes:
        name: the reference as the user would type it again.
        path: the folder; None for one on the hub that has not been downloaded.
        label: short name for tables and figures, of one command no two alike.
        revision: the hub revision, None for a plain folder.
        step: optimiser steps taken, None where the name does not say.
        tokens: training tokens seen, None where the name does not say.
        hub: the commit that the revision was when it was resolved, None for a local folder.
    """

    name: str
    path: Path | None
    label: str
    revision: str | None
    step: int | None
    tokens: int | None
    hub: HubCommit | None = None

    @property
    def commit(self) -> str | None:
        """The commit's hash on the hub, None for a local folder."""
        return None if self.hub is None else self.hub.commit


def cache_root() -> Path:
    """The cache of the hub's client: HF_HUB_CACHE or HF_HOME of the environment, or its default."""
    return Path(constants.HF_HUB_CACHE).expanduser().resolve()


def cache_folder(repo: str) -> Path:
    """Where the hub's client keeps a repository's files."""
    return cache_root() / repo_folder_name(repo_id=repo, repo_type="model")
