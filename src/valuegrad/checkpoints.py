"""Which weights: references, revisions, steps and content hashes of checkpoints."""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from valuegrad.errors import UserError

_STEP = re.compile(r"(?:^|[^a-z])(?:step-?|checkpoint-|ckpt_)(\d+)", re.IGNORECASE)
_STAGE = re.compile(r"(?:^|[^a-z])stage(\d+)", re.IGNORECASE)
_TOKENS = re.compile(r"(?:^|[^a-z])tokens?(\d+(?:\.\d+)?)([KMBT])", re.IGNORECASE)
_UNIT = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_HUB = re.compile(r"[\w.-]+(?:/[\w.-]+)?(?:@[\w./*?\[\]!-]+)?")
_DECIDING = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json",
    "merges.txt", "special_tokens_map.json",
)  # fmt: skip
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


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
    """One set of weights in a local folder.

    Attributes:
        name: the reference as the user would type it again.
        path: the folder.
        label: short name for tables and figures.
        revision: the hub revision, None for a plain folder.
        step: optimiser steps taken, None where the name does not say.
        tokens: training tokens seen, None where the name does not say.
    """

    name: str
    path: Path
    label: str
    revision: str | None
    step: int | None
    tokens: int | None


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


def resolve(references: Sequence[str]) -> tuple[Checkpoint, ...]:
    """Turn references into checkpoints, each glob sorted by stage and step.

    A reference is a local folder, a glob of folders (``runs/step*``), or ``repo``,
    ``repo@revision`` or ``repo@pattern*`` on the hub. Names without a step keep their natural order
    after those with one; a folder named twice is taken once.

    Args:
        references: one or more references.

    Returns:
        The checkpoints in order, at least one. Only that the folders hold a model is checked here;
        the files are checked by `validate`.

    Raises:
        UserError: a reference matches nothing, or is on the hub.
    """
    found: dict[Path, Checkpoint] = {}
    for reference in references:
        for path in _folders(reference):
            found.setdefault(path.resolve(), _checkpoint(path))
    if not found:
        raise UserError(
            "CHECKPOINT", "no reference", "at least one", "name a folder such as runs/step100"
        )
    return _with_distinct_labels(tuple(found.values()))


def validate(checkpoint: Checkpoint) -> tuple[Path, ...]:
    """Check that a folder holds a loadable model in safetensors, and list its weight files.

    Only headers are read, so the check takes milliseconds at any size.

    Args:
        checkpoint: the checkpoint.

    Returns:
        The weight files, sorted by name.

    Raises:
        UserError: no configuration, no weights, pickled weights only, a missing shard, or a
            truncated or damaged file.
    """
    folder = checkpoint.path
    if not (folder / "config.json").is_file():
        raise UserError(
            str(folder),
            "a folder without config.json",
            "a model in Hugging Face format",
            "point at a folder that save_pretrained wrote" + _nested_hint(folder),
        )
    shards = _shards(folder)
    if not shards:
        pickled = sorted(p.name for pattern in _PICKLED for p in folder.glob(pattern))
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
        Hexadecimal SHA-256 over the bytes of the safetensors files in order of name.

    Raises:
        UserError: as `validate`.
    """
    return _sha256(validate(checkpoint))


def content_sha256(checkpoint: Checkpoint, weights: str | None = None) -> str:
    """Hash everything that decides what a checkpoint computes: weights, configuration, tokenizer.

    Args:
        checkpoint: a checkpoint that `validate` accepts.
        weights: its `weights_sha256` where that is known already.

    Returns:
        Hexadecimal SHA-256.

    Raises:
        UserError: as `validate`.
    """
    files = [checkpoint.path / name for name in _DECIDING if (checkpoint.path / name).is_file()]
    parts = (weights or weights_sha256(checkpoint), _sha256(files))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _folders(reference: str) -> list[Path]:
    path = Path(reference).expanduser()
    if path.is_dir():
        return [path]
    if glob.has_magic(reference) and "@" not in reference:
        matches = [Path(p) for p in glob.glob(str(path)) if Path(p).is_dir()]  # noqa: PTH207
        matches = [p for p in matches if (p / "config.json").is_file()]
        if matches:
            return sorted(matches, key=_order)
        raise UserError(
            reference,
            "a pattern that matches no folder with a config.json",
            "at least one checkpoint",
            _near_fix(path),
        )
    if path.exists():
        raise UserError(reference, "a file", "a folder with config.json", "name its folder")
    if _HUB.fullmatch(reference) and not reference.startswith("."):
        raise UserError(
            reference,
            "neither a folder here nor a pattern of folders",
            "a local checkpoint (hub repositories are not read by this version)",
            "download it first, for example with `hf download`, and name the folder",
        )
    raise UserError(reference, "no such folder", "a checkpoint folder", _near_fix(path))


def _near_fix(path: Path) -> str:
    parent = path.parent
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    here = sorted(p.name for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))
    listed = ", ".join(here[:6]) + (", …" if len(here) > 6 else "")
    return f"{parent} holds {listed}" if here else f"check the path: {parent} holds no folder"


def _nested_hint(folder: Path) -> str:
    nested = sorted(p.parent.name for p in folder.glob("*/config.json"))
    return f", or at the ones inside it: '{folder}/*'" if nested else ""


def _checkpoint(path: Path) -> Checkpoint:
    revision = parse_revision(path.name)
    return Checkpoint(str(path), path, path.name, None, revision.step, revision.tokens)


def _order(path: Path) -> tuple[bool, int, int, list[tuple[int, str]]]:
    revision = parse_revision(path.name)
    pieces = re.split(r"(\d+)", str(path))
    natural = [(int(p), "") if p.isdigit() else (0, p) for p in pieces]
    return revision.step is None, revision.stage or 0, revision.step or 0, natural


def _with_distinct_labels(checkpoints: tuple[Checkpoint, ...]) -> tuple[Checkpoint, ...]:
    labels = [c.label for c in checkpoints]
    if len(set(labels)) == len(labels):
        return checkpoints
    return tuple(
        Checkpoint(c.name, c.path, f"{c.path.parent.name}/{c.label}", c.revision, c.step, c.tokens)
        for c in checkpoints
    )


def _shards(folder: Path) -> tuple[Path, ...]:
    index = folder / "model.safetensors.index.json"
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
