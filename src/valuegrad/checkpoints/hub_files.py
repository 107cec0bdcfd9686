"""The files of one commit: their hashes without a download, and the download itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from threading import Event
from typing import Any

from huggingface_hub import HfApi, RepoFile, snapshot_download
from tqdm.std import tqdm

from valuegrad.checkpoints.hub_cache import HubCommit, notes_folder, write_whole
from valuegrad.checkpoints.hub_failures import broken_off, explained
from valuegrad.checkpoints.hub_revisions import remember
from valuegrad.checkpoints.hub_room import check_room, note_download
from valuegrad.errors import DownloadError, UserError

INDEX = "model.safetensors.index.json"
_SETTINGS = (
    "config.json",
    "generation_config.json",
    INDEX,
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "*.model",
    "*.tiktoken",
    "*.py",
)
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class HubFile:
    """A file of a commit as the hub lists it.

    Attributes:
        size: bytes.
        sha256: of its bytes, None where it is kept in git itself.
        blob: its name in the client's cache.
    """

    size: int
    sha256: str | None
    blob: str


@dataclass
class Transfer:
    """How far a download is, and the way to stop it.

    Attributes:
        total: bytes to fetch.
        done: bytes that arrived.
        stop: once set, the download ends at its next piece.
    """

    total: int = 0
    done: int = 0
    stop: Event = field(default_factory=Event)


def listing(source: HubCommit) -> dict[str, HubFile]:
    """The files at the top of a commit; asked for once, as a commit never changes.

    Args:
        source: the commit.

    Returns:
        Name → file.

    Raises:
        UserError: no such commit.
        DownloadError: the hub cannot be reached.
    """
    kept = notes_folder(source.folder) / f"{source.commit}.json"
    if kept.is_file():
        return {name: HubFile(**values) for name, values in json.loads(kept.read_text()).items()}
    with explained(source.repo, source.revision):
        found = {
            entry.path: HubFile(
                entry.size,
                entry.lfs.sha256 if entry.lfs else None,
                entry.lfs.sha256 if entry.lfs else entry.blob_id,
            )
            for entry in HfApi().list_repo_tree(source.repo, revision=source.commit)
            if isinstance(entry, RepoFile)
        }
        write_whole(kept, json.dumps({name: vars(file) for name, file in found.items()}))
    return found


def settings_folder(source: HubCommit) -> Path:
    """Have configuration and tokenizer here, without weights.

    Args:
        source: the commit.

    Returns:
        The folder of the commit in the client's cache.

    Raises:
        UserError: as `listing`.
        DownloadError: the download failed.
    """
    folder = _download(source, _settings(listing(source)), Transfer())
    with explained(source.repo, source.revision):
        remember(source)
    return folder


def weight_files(source: HubCommit) -> dict[str, HubFile]:
    """The safetensors files that a commit's weights are in, sorted by name.

    Raises:
        UserError: no configuration, no weights, pickled weights only, or a shard that is missing.
        DownloadError: as `listing`.
    """
    name, found = source.name, listing(source)
    if "config.json" not in found:
        raise UserError(
            name,
            "a revision without config.json",
            "a model in Hugging Face format",
            "name a revision of a causal language model",
        )
    if INDEX in found:
        index = settings_folder(source) / INDEX
        try:
            shards = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(
                name, f"a damaged {INDEX} ({error})", "a weight_map", "name another revision"
            ) from error
    else:
        shards = sorted(file for file in found if file.endswith(".safetensors"))
    if not shards:
        pickled = sorted(file for file in found if _matches(file, PICKLED))
        got = f"pickled weights only ({', '.join(pickled[:3])}), which can run code when loaded"
        raise UserError(
            name,
            got if pickled else "a revision without weights",
            "weights in safetensors",
            "name a revision that has them, or convert these where it is safe to load them",
        )
    for shard in shards:
        if shard not in found:
            raise UserError(
                name, f"no file {shard}", "every shard the index names", "name another revision"
            )
    return {shard: found[shard] for shard in shards}


def missing_bytes(source: HubCommit, names: Iterable[str]) -> int:
    """How many bytes of these files are not in the cache yet."""
    found = listing(source)
    return sum(found[name].size for name in _missing(source, names))


def download(source: HubCommit, transfer: Transfer) -> Path:
    """Have a whole checkpoint here: weights in safetensors, configuration, tokenizer.

    Args:
        source: the commit.
        transfer: told how far it is.

    Returns:
        The folder of the commit in the client's cache.

    Raises:
        UserError: as `weight_files`.
        DownloadError: the download failed; nothing half-written is kept.
    """
    weights = weight_files(source)
    settings_folder(source)
    return _download(source, tuple(weights), transfer)


def _download(source: HubCommit, names: tuple[str, ...], transfer: Transfer) -> Path:
    found, new, snapshot = listing(source), _missing(source, names), source.snapshot
    if any(not (snapshot / name).exists() for name in names):
        transfer.total = sum(found[name].size for name in new)
        with explained(source.repo, source.revision):
            check_room(source.name, transfer.total)
            snapshot_download(
                source.repo,
                revision=source.commit,
                allow_patterns=list(names),
                tqdm_class=_counter(transfer),
            )
    for name in names:
        # Without a network the client hands out a snapshot that lacks files.
        if not (snapshot / name).exists():
            raise broken_off(source.name, f"{name} did not arrive")
    for name in new:
        _verify(source.name, snapshot / name, found[name])
    note_download(snapshot, [n for n in names if n.endswith(".safetensors")], new)
    return snapshot


def _settings(found: dict[str, HubFile]) -> tuple[str, ...]:
    return tuple(n for n in found if _matches(n, _SETTINGS) and not _matches(n, PICKLED))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _missing(source: HubCommit, names: Iterable[str]) -> list[str]:
    found = listing(source)
    return [
        name
        for name in names
        if not (source.snapshot / name).exists()
        and not (source.folder / "blobs" / found[name].blob).exists()
    ]


def _verify(name: str, path: Path, file: HubFile) -> None:
    """The client checks sizes only: a wrong byte would be measured as if it were the model's."""
    if file.sha256 is None:
        return
    with path.open("rb") as stream:
        arrived = hashlib.file_digest(stream, "sha256").hexdigest()
    if arrived != file.sha256:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise DownloadError(
            f"{name}: {path.name} arrived damaged (its SHA-256 is not the hub's) and was deleted; "
            "run the same command again to download it anew"
        )


def _counter(transfer: Transfer) -> type[Any]:
    """The client's bar, which draws nothing, counts bytes, and ends a download that has to stop."""

    class Counter(tqdm):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **{**settings, "disable": True})
            self.counts_bytes = settings.get("unit") == "B"

        def update(self, n: int | float | None = 1) -> None:
            if transfer.stop.is_set():
                raise CancelledError
            if self.counts_bytes:
                self.n += n or 0
                transfer.done = max(transfer.done, int(self.n))

    return Counter
