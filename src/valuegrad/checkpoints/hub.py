"""The files of one commit on the hub: their hashes without a download, and the download itself."""

import errno
import hashlib
import json
from collections.abc import Collection, Iterable
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from threading import Event
from typing import Any

from huggingface_hub import HfApi, RepoFile, errors, snapshot_download
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]
from tqdm.std import tqdm

from valuegrad.checkpoints.checkpoint import HubCommit, cache_folder
from valuegrad.checkpoints.eviction import NOTES, free_bytes, in_words, note_download
from valuegrad.checkpoints.hub_failures import explained
from valuegrad.errors import DownloadError, RunError, UserError
from valuegrad.files import write_atomically

SINGLE = "model.safetensors"
INDEX = f"{SINGLE}.index.json"
_PICKLED = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl"]
_SETTINGS = [
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
]


@dataclass(frozen=True)
class HubFile:
    """A file of a commit as the hub lists it."""

    size: int  # bytes
    sha256: str | None  # of its bytes, None where it is kept in git itself
    blob: str  # its name in the cache of the hub's client


@dataclass
class Transfer:
    """How far a download is, in bytes, and the way to stop it at its next piece."""

    total: int = 0
    done: int = 0
    stop: Event = field(default_factory=Event)


def listing(source: HubCommit) -> dict[str, HubFile]:
    """The files at the top of a commit, by name; asked for once, as a commit never changes."""
    note = cache_folder(source.repo) / NOTES / f"{source.commit}.json"
    if note.is_file():
        return {name: HubFile(**values) for name, values in json.loads(note.read_text()).items()}
    found = {}
    with explained(source.repo, source.revision):
        for entry in HfApi().list_repo_tree(source.repo, revision=source.commit):
            if isinstance(entry, RepoFile):
                sha256 = entry.lfs.sha256 if entry.lfs else None
                found[entry.path] = HubFile(entry.size, sha256, sha256 or entry.blob_id)
    with suppress(RunError):  # A cache that is only read serves as it is.
        write_atomically(note, json.dumps({name: asdict(file) for name, file in found.items()}))
    return found


def settings_folder(source: HubCommit) -> Path:
    """Have configuration and tokenizer here, without weights, and return their folder."""
    folder = _have(source, settings(listing(source)), Transfer())
    # So that it can be named without a network; to the client a ref without a snapshot is damage.
    ref = cache_folder(source.repo) / "refs" / source.revision
    known = ref.read_text("utf-8") if ref.is_file() else source.revision
    if known != source.commit:
        with suppress(RunError):  # A cache that is only read serves as it is.
            write_atomically(ref, source.commit)
    return folder


def settings(names: Iterable[str]) -> list[str]:
    """The files among some that decide, beside the weights, what a model computes."""
    return sorted(filter_repo_objects(names, allow_patterns=_SETTINGS, ignore_patterns=_PICKLED))


def weight_files(source: HubCommit) -> dict[str, HubFile]:
    """The safetensors files that a commit's weights are in, sorted by name."""
    found, fix = listing(source), "name a revision that has them"
    index = settings_folder(source) / INDEX if INDEX in found else None
    return {n: found[n] for n in weight_names(source.name, found, index, fix)}


def missing(source: HubCommit, names: Iterable[str]) -> dict[str, int]:
    """Those of some files that are not in the cache yet, and their bytes."""
    # The client's dry run would send a request for each of them.
    found, blobs = listing(source), cache_folder(source.repo) / "blobs"
    return {
        name: found[name].size
        for name in names
        if not (source.snapshot / name).exists() and not (blobs / found[name].blob).exists()
    }


def download(source: HubCommit, transfer: Transfer) -> Path:
    """Have weights in safetensors, configuration and tokenizer here, and return their folder."""
    settings_folder(source)
    return _have(source, list(weight_files(source)), transfer)


def weight_names(model: str, names: Collection[str], index: Path | None, fix: str) -> list[str]:
    """The sorted weight files that transformers reads among a model's files.

    Safetensors alone, as pickles can run code; an index only where there is no single file.
    """
    shards = [SINGLE] if SINGLE in names else []
    if index is not None and not shards:
        try:
            shards = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(model, f"a damaged {INDEX} ({error})", "a weight_map", fix) from error
    for shard in shards:
        if shard not in names:
            raise UserError(model, f"no file {shard}", "every shard that the index names", fix)
    if not shards:
        got = f"a model without {SINGLE} or {INDEX}"
        if pickled := sorted(filter_repo_objects(names, allow_patterns=_PICKLED)):
            got = f"pickled weights only ({', '.join(pickled[:3])}), which can run code when loaded"
            fix += ", or convert these with save_pretrained where it is safe to load them"
        raise UserError(model, got, "weights in safetensors", fix)
    return shards


def file_sha256(path: Path) -> bytes:
    """SHA-256 of a file, which is read once for as long as nothing about it changes."""
    now = path.stat()
    return _sha256(path.resolve(), now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino)


@cache
def _sha256(path: Path, size: int, modified: int, changed: int, inode: int) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _have(source: HubCommit, names: list[str], transfer: Transfer) -> Path:
    found, new, snapshot = listing(source), missing(source, names), source.snapshot
    with explained(source.repo, source.revision):
        if not all((snapshot / name).exists() for name in names):
            need, free = sum(new.values()), free_bytes()
            if need > free:
                raise OSError(errno.ENOSPC, f"it needs {in_words(need)} of {in_words(free)} free")
            transfer.total, bar = need, _counter(transfer)
            snapshot_download(
                source.repo, revision=source.commit, allow_patterns=names, tqdm_class=bar
            )
        for name in names:
            # Without a network the client hands out a snapshot that lacks files.
            if not (snapshot / name).exists():
                raise errors.LocalEntryNotFoundError(f"{name} did not arrive")
    for name in new:
        # The client checks sizes only: a wrong byte would be measured as if it were the model's.
        if found[name].sha256 not in (None, file_sha256(snapshot / name).hex()):
            (snapshot / name).resolve().unlink()
            (snapshot / name).unlink(missing_ok=True)
            raise DownloadError(
                f"{source.name}: {name} arrived damaged (its SHA-256 is not the hub's) and was "
                "deleted; run the same command again to download it anew"
            )
    note_download(snapshot, [n for n in names if n.endswith(".safetensors")], new)
    return snapshot


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
