"""Where the hub's client keeps files, and where valuegrad notes what it knows about them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name


@dataclass(frozen=True)
class HubCommit:
    """A commit of a repository, and the revision by which the user knows it.

    Attributes:
        repo: ``owner/name``.
        revision: branch, tag or commit as the user names it.
        commit: its full hash.
    """

    repo: str
    revision: str
    commit: str

    @property
    def name(self) -> str:
        """The reference as the user would type it."""
        return f"{self.repo}@{self.revision}"

    @property
    def folder(self) -> Path:
        """Where the client keeps the repository's files."""
        return cache_folder(self.repo)

    @property
    def snapshot(self) -> Path:
        """Where the client puts the files of this commit."""
        return self.folder / "snapshots" / self.commit


def cache_root() -> Path:
    """The client's cache: the HF_HUB_CACHE or HF_HOME of the environment, or its default."""
    return Path(constants.HF_HUB_CACHE).expanduser().resolve()


def cache_folder(repo: str) -> Path:
    """Where the client keeps a repository's files."""
    return cache_root() / repo_folder_name(repo_id=repo, repo_type="model")


def notes_folder(folder: Path) -> Path:
    """Where valuegrad's own notes about a repository's folder are; they go when it is deleted."""
    return folder / ".valuegrad"


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that it is never seen half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, "utf-8")
    draft.replace(path)
