"""The files of a checkpoint: what makes one whole, and the hash of what it computes."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from valuegrad.checkpoints import hub
from valuegrad.checkpoints.checkpoint import Checkpoint
from valuegrad.errors import UserError

Header = dict[str, tuple[str, tuple[int, ...]]]  # dtype and shape of each tensor of a file
_ADAPTER = "adapter_config.json"
_MERGE = "merge the adapter with peft's merge_and_unload, then save_pretrained into a new folder"
_NO_NUMBERS = {
    "quantization_config": ("quantised weights", "dequantise the model, then save_pretrained"),
    "transformers_weights": ("a weight file of another name", "save it with save_pretrained"),
}


def fetch(checkpoint: Checkpoint) -> Checkpoint:
    """Have a checkpoint's files here; `prefetch` does so ahead and under a limit."""
    if checkpoint.hub is None or checkpoint.path is not None:
        return checkpoint
    return replace(checkpoint, path=hub.download(checkpoint.hub, hub.Transfer()))


def read_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The configuration of a checkpoint's model; of one on the hub no weights are downloaded."""
    folder = _settings_folder(checkpoint)
    try:
        return _parsed(checkpoint, folder / "config.json")
    except OSError:
        if (folder / _ADAPTER).is_file():
            wanted = "a whole model in Hugging Face format"
            raise UserError(checkpoint.name, "an adapter alone", wanted, _MERGE) from None
        got = f"a {'revision' if checkpoint.hub else 'folder'} without config.json"
        fix = "name one that save_pretrained wrote" + _nested_hint(folder)
        raise UserError(checkpoint.name, got, "a model in Hugging Face format", fix) from None


def _parsed(checkpoint: Checkpoint, path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        got = f"a damaged {path.name} ({error})"
        raise UserError(checkpoint.name, got, "JSON", "copy it again") from error


def validate(checkpoint: Checkpoint) -> dict[Path, Header]:
    """The weight files of a checkpoint, which is fetched, with what each says that it holds."""
    config, folder = read_config(checkpoint), fetch(checkpoint).path
    assert folder is not None
    for key, (got, fix) in _NO_NUMBERS.items():
        if config.get(key):
            got = f"{got} ({key} in config.json)"
            raise UserError(checkpoint.name, got, "weights as they were trained", fix)
    if (folder / _ADAPTER).is_file():
        # transformers would load the adapter's base model from wherever that names it.
        got = f"an adapter ({_ADAPTER}) beside a model"
        raise UserError(checkpoint.name, got, "a model alone", _MERGE)
    names = _names(folder)
    for name in hub.settings(names):
        # transformers takes a damaged file of generation settings for none.
        if name.endswith("_config.json"):
            _parsed(checkpoint, folder / name)
    index = folder / hub.INDEX if hub.INDEX in names else None
    fix = "copy its files again, the weights beside config.json" + _nested_hint(folder)
    found: dict[Path, Header] = {}
    for name in hub.weight_names(str(folder), names, index, fix):
        header = _header(folder / name)
        for tensor in header.keys() & {t for other in found.values() for t in other}:
            fix = "copy the files of one checkpoint only"
            raise UserError(str(folder / name), f"a second {tensor}", "each tensor once", fix)
        found[folder / name] = header
    return found


def _header(shard: Path) -> Header:
    try:
        with safe_open(shard, framework="pt") as stream:
            parts = {name: stream.get_slice(name) for name in stream.offset_keys()}
            return {n: (part.get_dtype(), tuple(part.get_shape())) for n, part in parts.items()}
    except (SafetensorError, OSError) as error:
        got = f"an unreadable safetensors file ({error})"
        fix = "copy or download it again: it was probably cut off"
        raise UserError(str(shard), got, "a whole one", fix) from error


def weights_sha256(checkpoint: Checkpoint) -> str:
    """Hexadecimal SHA-256 over the SHA-256 of each weight file in order of name."""
    if checkpoint.hub is not None:
        # The hub lists them: nothing is downloaded, and a copy here has the same hash.
        listed = [file.sha256 for file in hub.weight_files(checkpoint.hub).values()]
        if None not in listed:
            return hashlib.sha256(b"".join(bytes.fromhex(h) for h in listed if h)).hexdigest()
    return _sha256(validate(checkpoint))


def content_sha256(checkpoint: Checkpoint) -> str:
    """Hexadecimal SHA-256 of what a checkpoint computes with: weights, settings, code it brings."""
    folder = _settings_folder(checkpoint)
    files = hub.settings(_names(folder) - {hub.INDEX})
    known = [f"{name} {hub.file_sha256(folder / name).hex()}" for name in files]
    parts = [weights_sha256(checkpoint), *known]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _settings_folder(checkpoint: Checkpoint) -> Path:
    if checkpoint.hub is not None:
        return hub.settings_folder(checkpoint.hub)
    assert checkpoint.path is not None
    return checkpoint.path


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*") if path.is_file()}


def _nested_hint(folder: Path) -> str:
    nested = sorted(p.parent.name for p in folder.glob("*/config.json"))
    return f", or point at the ones inside it: '{folder}/*'" if nested else ""


def _sha256(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(map(hub.file_sha256, files))).hexdigest()
