"""Which weights: the name, the step and the place of a checkpoint."""

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

_STEP = re.compile(r"(?:^|[^a-z])(?:step-?|checkpoint-|ckpt_)(\d+)", re.IGNORECASE)
_STAGE = re.compile(r"(?:^|[^a-z])stage(\d+)", re.IGNORECASE)
_TOKENS = re.compile(r"(?:^|[^a-z])tokens?(\d+(?:\.\d+)?)([KMBT])", re.IGNORECASE)
_UNIT = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Revision:
    """What the name of a checkpoint says, None where it is silent."""

    stage: int | None  # of training (OLMo, SmolLM3)
    step: int | None  # optimiser steps taken
    tokens: int | None  # training tokens seen


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
        label: short name for tables and figures.
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


def parse_revision(name: str) -> Revision:
    """Read stage, step and tokens off the name of a revision or folder.

    Knows the schemes of OLMo-2 and OLMo-3, Pythia, SmolLM2 and 3, Amber, Apertus and the Hugging
    Face trainer. A name it does not know gives None throughout.

    Args:
        name: such as ``stage1-step50000-tokens105B``, ``step-240000``, ``ckpt_000``.

    Returns:
        The three numbers, tokens as a count.

    Example:
        >>> parse_revision("stage1-step50000-tokens105B")
        Revision(stage=1, step=50000, tokens=105000000000)
        >>> parse_revision("main")
        Revision(stage=None, step=None, tokens=None)
    """
    stage, step, tokens = _STAGE.search(name), _STEP.search(name), _TOKENS.search(name)
    return Revision(
        stage=int(stage[1]) if stage else None,
        step=int(step[1]) if step else None,
        tokens=round(float(tokens[1]) * _UNIT[tokens[2].upper()]) if tokens else None,
    )


def cache_root() -> Path:
    """The cache of the hub's client: HF_HUB_CACHE or HF_HOME of the environment, or its default."""
    return Path(constants.HF_HUB_CACHE).expanduser().resolve()


def cache_folder(repo: str) -> Path:
    """Where the hub's client keeps a repository's files."""
    return cache_root() / repo_folder_name(repo_id=repo, repo_type="model")
