"""The files of a checkpoint: what makes one whole, and the hash of what it computes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from valuegrad.checkpoints.checkpoint import Checkpoint
from valuegrad.checkpoints.hub_files import (
    INDEX,
    PICKLED,
    Transfer,
    download,
    settings_folder,
    weight_files,
)
from valuegrad.errors import UserError

_DECIDING = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
)


def fetch(checkpoint: Checkpoint) -> Checkpoint:
    """Have a checkpoint's files here; `prefetch` does so ahead and under a limit.

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
        checkpoint.name,
        "a folder without config.json",
        "a model in Hugging Face format",
        "point at a folder that save_pretrained wrote" + hint,
    )


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
