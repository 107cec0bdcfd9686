"""Which weights: the names, steps and content hashes of checkpoints, and what makes one whole."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from valuegrad.errors import UserError
from valuegrad.hub.cache import HubCommit
from valuegrad.hub.files import (
    INDEX,
    PICKLED,
    Transfer,
    download,
    settings_folder,
    weight_files,
)

_STEP = re.compile(r"(?:^|[^a-z])(?:step-?|checkpoint-|ckpt_)(\d+)", re.IGNORECASE)
_STAGE = re.compile(r"(?:^|[^a-z])stage(\d+)", re.IGNORECASE)
_TOKENS = re.compile(r"(?:^|[^a-z])tokens?(\d+(?:\.\d+)?)([KMBT])", re.IGNORECASE)
_UNIT = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_DECIDING = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json",
    "merges.txt", "special_tokens_map.json",
)  # fmt: skip


@dataclass(frozen=True)
class Revision:
    """What the name of a checkpoint says: training stage, step and tokens, None where it is silent.

    Attributes:
        stage: number of the training stage (OLMo, SmolLM3).
        step: optimiser steps taken.
        tokens: training tokens seen.
    """

    stage: int | None
    step: int | None
    tokens: int | None


@dataclass(frozen=True)
class Checkpoint:
    """One set of weights, in a local folder or on the hub.

    Attributes:
        name: the reference as the user would type it again.
        path: the folder; None for one on the hub until `fetch` has brought it here.
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


def fetch(checkpoint: Checkpoint) -> Checkpoint:
    """Have a checkpoint's files here; `valuegrad.downloads` does so ahead and under a limit.

    Args:
        checkpoint: any; a local one is returned as it is.

    Returns:
        The checkpoint with its folder. Of one on the hub it is in the cache of the hub's client.

    Raises:
        UserError: the revision holds no weights in safetensors.
        DownloadError: the download failed.
    """
    if checkpoint.hub is None or checkpoint.path is not None:
        return checkpoint
    return replace(checkpoint, path=download(checkpoint.hub, Transfer()))


def read_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The configuration of a checkpoint's model; of one on the hub no weights are downloaded.

    Raises:
        UserError: it is missing or damaged.
        DownloadError: the download failed.
    """
    path = _settings(checkpoint) / "config.json"
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except OSError:
        raise _without_config(checkpoint) from None
    except (ValueError, TypeError) as error:
        raise UserError(
            checkpoint.name, f"a damaged config.json ({error})", "JSON", "copy it again"
        ) from error


def validate(checkpoint: Checkpoint) -> tuple[Path, ...]:
    """Check that a folder holds a loadable model in safetensors, and list its weight files.

    Only headers are read, so the check takes milliseconds at any size. One on the hub is fetched.

    Args:
        checkpoint: the checkpoint.

    Returns:
        The weight files, sorted by name.

    Raises:
        UserError: no configuration, no weights, pickled weights only, a missing shard, or a
            truncated or damaged file.
    """
    folder = fetch(checkpoint).path
    assert folder is not None
    if not (folder / "config.json").is_file():
        raise _without_config(checkpoint)
    shards = _shards(folder)
    if not shards:
        pickled = sorted(p.name for pattern in PICKLED for p in folder.glob(pattern))
        if pickled:
            raise UserError(
                str(folder),
                f"pickled weights only ({', '.join(pickled[:3])}), which can run code when loaded",
                "weights in safetensors",
                "convert them with save_pretrained(..., safe_serialization=True)",
            )
        raise UserError(
            str(folder),
            "a folder without weights",
            "model.safetensors or its shards",
            "copy the weights beside config.json" + _nested_hint(folder),
        )
    for shard in shards:
        if not shard.is_file():
            raise UserError(
                str(folder), f"no file {shard.name}", "every shard the index names", "copy it again"
            )
        try:
            with safe_open(shard, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise UserError(
                str(shard),
                f"an unreadable safetensors file ({error})",
                "a whole one",
                "copy or download it again: it was probably cut off",
            ) from error
    return shards


def weights_sha256(checkpoint: Checkpoint) -> str:
    """Hash the weight files of a checkpoint: what was measured, whatever its folder is called.

    Args:
        checkpoint: a checkpoint that `validate` accepts.

    Returns:
        Hexadecimal SHA-256 over the SHA-256 of each safetensors file in order of name. The hub
        lists these, so a checkpoint there is not downloaded for it and has the hash of a copy here.

    Raises:
        UserError: as `validate`.
        DownloadError: the hub cannot be reached.
    """
    if checkpoint.hub is not None:
        listed = [file.sha256 for file in weight_files(checkpoint.hub).values()]
        if None not in listed:
            return hashlib.sha256(b"".join(bytes.fromhex(h) for h in listed if h)).hexdigest()
    return _sha256(validate(checkpoint))


def content_sha256(checkpoint: Checkpoint, weights: str | None = None) -> str:
    """Hash everything that decides what a checkpoint computes: weights, configuration, tokenizer.

    And the code that it brings, if any.

    Args:
        checkpoint: a checkpoint that `validate` accepts.
        weights: its `weights_sha256` where that is known already.

    Returns:
        Hexadecimal SHA-256.

    Raises:
        UserError: as `validate`.
    """
    folder, names = _settings(checkpoint), list(_DECIDING)
    if "auto_map" in read_config(checkpoint):
        names += sorted(path.name for path in folder.glob("*.py"))
    files = [folder / name for name in names if (folder / name).is_file()]
    parts = (weights or weights_sha256(checkpoint), _sha256(files))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _settings(checkpoint: Checkpoint) -> Path:
    """The folder of configuration and tokenizer."""
    if checkpoint.hub is not None:
        return settings_folder(checkpoint.hub)
    assert checkpoint.path is not None
    return checkpoint.path


def _without_config(checkpoint: Checkpoint) -> UserError:
    hint = _nested_hint(checkpoint.path) if checkpoint.path else ""
    return UserError(
        checkpoint.name, "a folder without config.json", "a model in Hugging Face format",
        "point at a folder that save_pretrained wrote" + hint,
    )  # fmt: skip


def _nested_hint(folder: Path) -> str:
    nested = sorted(p.parent.name for p in folder.glob("*/config.json"))
    return f", or at the ones inside it: '{folder}/*'" if nested else ""


def _shards(folder: Path) -> tuple[Path, ...]:
    index = folder / INDEX
    if index.is_file():
        try:
            names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(
                str(index), f"a damaged index ({error})", "a weight_map", "copy it again"
            ) from error
        return tuple(folder / name for name in sorted(names))
    return tuple(sorted(folder.glob("*.safetensors")))


def _sha256(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
