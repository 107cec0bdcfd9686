"""The files of one commit on the hub: their hashes without a download, and the download itself."""

import errno
import hashlib
import json
import logging
import os
import re
from collections.abc import Collection, Iterable
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from threading import Event
from typing import Any

from huggingface_hub import (
    HfApi,
    RepoFile,
    constants,
    errors,
    get_cached_repo_tree,
    snapshot_download,
)
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]
from tqdm.std import tqdm

from valuegrad.checkpoints.checkpoint import HubCommit, cache_folder
from valuegrad.checkpoints.eviction import NOTES, free_bytes, in_words, note_download
from valuegrad.checkpoints.hub_failures import explained, no_hub, unreachable
from valuegrad.errors import DownloadError, RunError, UserError
from valuegrad.files import write_atomically

_LOG = logging.getLogger(__name__)
SINGLE = "model.safetensors"
INDEX = f"{SINGLE}.index.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")
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
_VOCABULARY = ["tokenizer.json", "vocab*", "*.model", "*.tiktoken", "tokenization*.py"]


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
    return _listing(source, cache_folder(source.repo) / NOTES / f"{source.commit}.json")


@cache
def _listing(source: HubCommit, note: Path) -> dict[str, HubFile]:
    found = {}
    with suppress(OSError, ValueError):  # Not there, or another user's.
        return {name: HubFile(**file) for name, file in json.loads(note.read_text()).items()}
    with explained(source.repo, source.revision):
        try:
            for entry in HfApi().list_repo_tree(source.repo, revision=source.commit):
                if isinstance(entry, RepoFile):
                    sha256 = entry.lfs.sha256 if entry.lfs else None
                    found[entry.path] = HubFile(entry.size, sha256, sha256 or entry.blob_id)
        except Exception as error:
            if not unreachable(error):
                raise
            return _held(source, error)
    with suppress(RunError):  # A cache that is only read serves as it is.
        write_atomically(note, json.dumps({name: asdict(file) for name, file in found.items()}))
    return found


def _held(source: HubCommit, no_answer: Exception) -> dict[str, HubFile]:
    """What others put into the cache of a commit that the hub cannot be asked about: all of it."""
    folder = source.snapshot
    sizes: dict[str, int | None]
    try:
        tree = get_cached_repo_tree(source.repo, revision=source.commit)
        sizes = {file.path: file.size for file in tree if "/" not in file.path}
    except errors.CachedRepoTreeNotFoundError:
        sizes = dict.fromkeys(_expected(source))
    config = folder / "config.json"
    own_code = config.is_file() and b"auto_map" in config.read_bytes()
    found = {}
    for name, size in sizes.items():
        path = folder / name
        needed = own_code or not name.endswith(".py")
        if not path.exists() and (not needed or name.startswith("chat_template")):
            continue
        if size is None:
            size = path.stat().st_size if path.exists() else 0
        # The client names a large file by its SHA-256; without links the file itself is hashed.
        blob = path.readlink().name if path.is_symlink() else name
        found[name] = HubFile(size, blob if _SHA256.fullmatch(blob) else None, blob)
    index = folder / INDEX if (folder / INDEX).is_file() else None
    weights = []
    if index or SINGLE in found or INDEX not in found:
        weights = weight_names(source.name, found, index, "name a revision that has them")
    absent = [name for name in (*settings(found), *weights) if not (folder / name).exists()]
    if absent:
        raise no_hub(source.name, no_answer, absent if folder.is_dir() else ())
    return found


def _expected(source: HubCommit) -> set[str]:
    """The files of a commit of which no list is kept: those in the cache, and what these need."""
    folder = source.snapshot
    # Also a link whose blob is gone: the commit has that file.
    names = {path.name for path in folder.glob("*") if not path.is_dir()} | {"config.json"}
    if INDEX in names:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            index = json.loads((folder / INDEX).read_text("utf-8"))
            names.update(map(str, index["weight_map"].values()))
    elif SINGLE not in names:
        names.add(INDEX if any(name.endswith(".safetensors") for name in names) else SINGLE)
    if not any(filter_repo_objects(names, allow_patterns=_VOCABULARY)):
        names.add("tokenizer.json")
    known_absent = cache_folder(source.repo) / ".no_exist" / source.commit
    if not (known_absent / "tokenizer_config.json").exists():
        names.add("tokenizer_config.json")
    if not any((place / "generation_config.json").exists() for place in (folder, known_absent)):
        _LOG.warning(
            f"valuegrad: {source.name} is taken to have no generation_config.json, as there is "
            "none in the cache and the hub cannot be asked; it can name more stop tokens"
        )
    return names


def settings_folder(source: HubCommit) -> Path:
    """Have configuration and tokenizer here, without weights, and return their folder."""
    folder = _have(source, settings(listing(source)), Transfer())
    _note_revision(source, move=False)
    return folder


def settings(names: Iterable[str]) -> list[str]:
    """The files among some that decide, beside the weights, what a model computes."""
    return sorted(filter_repo_objects(names, allow_patterns=_SETTINGS, ignore_patterns=_PICKLED))


def _note_revision(source: HubCommit, move: bool) -> None:
    """Have a revision named without a network, after its snapshot, as the client wants it."""
    # What the user has under it stays in use until all of the new commit is here.
    repository = cache_folder(source.repo)
    ref = repository / "refs" / source.revision
    with suppress(OSError, RunError):  # A cache that is only read serves as it is.
        known = ref.read_text("utf-8").strip() if ref.is_file() else ""
        stays = known and not move and (repository / "snapshots" / known).is_dir()
        if not stays and source.commit not in (known, source.revision):
            write_atomically(ref, source.commit)


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
    folder = _have(source, list(weight_files(source)), transfer)
    _note_revision(source, move=True)
    return folder


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
    found, snapshot = listing(source), source.snapshot
    with explained(source.repo, source.revision):
        new = missing(source, names)
        absent = [name for name in names if not (snapshot / name).exists()]
    with explained(source.repo, source.revision, absent):
        if absent:
            _check_room(snapshot, sum(new.values()))
            transfer.total, bar = sum(new.values()), _counter(transfer)
            snapshot_download(
                source.repo, revision=source.commit, allow_patterns=names, tqdm_class=bar
            )
        for name in absent:
            # Without a network the client hands out a snapshot that lacks files.
            if not (snapshot / name).exists():
                raise errors.LocalEntryNotFoundError(f"{name} did not arrive")
    with explained(source.repo, source.revision):
        for name in names:
            _check_whole(source, name, found[name], name in new)
        weights = [name for name in names if name.endswith(".safetensors")]
        note_download(snapshot, weights, new, absent)
    return snapshot


def _check_room(snapshot: Path, need: int) -> None:
    """Raise what a download to a snapshot would meet, before it begins."""
    if constants.HF_HUB_OFFLINE:
        raise errors.OfflineModeIsEnabled
    nearest = next(path for path in (snapshot, *snapshot.parents) if path.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(nearest))
    if need > (free := free_bytes()):
        raise OSError(errno.ENOSPC, f"it needs {in_words(need)} of {in_words(free)} free")


def _check_whole(source: HubCommit, name: str, file: HubFile, new: bool) -> None:
    """Refuse what is not the hub's file, byte by byte where its hash is known."""
    # The client checks sizes only: a wrong byte would be measured as if it were the model's.
    path = source.snapshot / name
    if file.sha256 is not None and file.sha256 != file_sha256(path).hex():
        got = "its SHA-256 is not the hub's"
    elif path.stat().st_size != file.size:
        got = f"it has {path.stat().st_size} of {file.size} bytes"
    else:
        return
    if not new:  # Not valuegrad's to delete.
        blob = path.resolve()
        fix = f"delete {blob}, and {path} with it," if blob != path else f"delete {path}"
        raise DownloadError(
            f"{source.name}: {name} is damaged in the cache ({got}); {fix} and run "
            "the same command again to download it anew"
        )
    path.resolve().unlink()
    path.unlink(missing_ok=True)
    raise DownloadError(
        f"{source.name}: {name} arrived damaged ({got}) and was "
        "deleted; run the same command again to download it anew"
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
