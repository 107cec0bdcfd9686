"""Room on the disk: what valuegrad downloaded, and which of it goes when a limit is reached."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, scan_cache_dir

from valuegrad.checkpoints.hub_cache import cache_root, notes_folder, write_whole
from valuegrad.errors import DownloadError, UserError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)


@dataclass(frozen=True)
class Kept:
    """The weights of one commit that valuegrad downloaded and that are still there.

    Attributes:
        snapshot: the commit's folder in the client's cache.
        blobs: its weight files → bytes.
        used: when it was last used, in nanoseconds.
    """

    snapshot: Path
    blobs: dict[Path, int]
    used: int


def parse_size(argument: str, text: str) -> int:
    """Bytes of a size such as ``50GB``, ``1.5TB`` or ``200MiB``.

    Args:
        argument: the flag, for the message.
        text: the size.

    Returns:
        Whole bytes.

    Raises:
        UserError: it is no size above 0.

    Example:
        >>> parse_size("--cache-limit", "50GB")
        50000000000
    """
    match = _SIZE.fullmatch(text.strip())
    base = 1024 if match and match[3] else 1000
    size = round(float(match[1]) * base ** " KMGT".index(match[2].upper() or " ")) if match else 0
    if size <= 0:
        raise UserError(
            argument, repr(text), "a size above 0 such as 50GB", "leave it out for none"
        )
    return size


def in_words(size: int | float) -> str:
    """Bytes as text.

    Example:
        >>> in_words(2.93e9)
        '2.93 GB'
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def check_room(name: str, size: int) -> None:
    """Refuse a download that the disk cannot hold, before it begins.

    Raises:
        DownloadError: it is larger than what is free.
    """
    free = free_bytes()
    if size > free:
        raise DownloadError(
            f"{name} needs {in_words(size)} and {constants.HF_HUB_CACHE} has {in_words(free)} "
            "free. Nothing was downloaded; make room there, set HF_HOME to a larger disk or pass "
            "--cache-limit, and run the same command again"
        )


def free_bytes() -> int:
    """What is free where the client's cache is, or will be."""
    folder = cache_root()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def note_download(snapshot: Path, weights: Sequence[str], new: Collection[str]) -> None:
    """Note that a commit is used now, and which of its weight files came through valuegrad.

    Args:
        snapshot: the commit's folder.
        weights: its weight files.
        new: the files that were just downloaded; others were here before.
    """
    folder = snapshot.parents[1]
    ours = {blob for each in _kept(folder) for blob in each.blobs}
    blobs = {name: _blob(snapshot / name) for name in weights}
    times = {n: b.stat().st_mtime_ns for n, b in blobs.items() if n in new or b in ours}
    if times:
        write_whole(notes_folder(folder) / f"{snapshot.name}.kept", json.dumps(times))


def kept() -> list[Kept]:
    """Everything that valuegrad downloaded and that is still there, least recently used first."""
    found = [each for folder in cache_root().glob("models--*") for each in _kept(folder)]
    return sorted(found, key=lambda each: each.used)


def make_room(
    need: int,
    limit: int | None,
    keep: Collection[Path],
    later: Sequence[Path] = (),
) -> bool:
    """Delete weights that valuegrad downloaded until ``need`` more bytes stay under a limit.

    What is not asked for any more goes first, the least recently used before others; then what is
    asked for last. Configurations and tokenizers stay, and so do files that others downloaded.

    Args:
        need: bytes about to be downloaded.
        limit: bytes that valuegrad's downloads may take, None for no limit.
        keep: snapshots that are in use.
        later: snapshots that will be asked for, in order.

    Returns:
        Whether there is room now; nothing is deleted where there cannot be.
    """
    if limit is None:
        return True
    here = kept()
    if need + _size(each for each in here if each.snapshot in keep) > limit:
        return False
    order = {snapshot: place for place, snapshot in enumerate(later)}
    candidates = [each for each in here if each.snapshot not in keep]
    candidates.sort(key=lambda each: -order.get(each.snapshot, len(order)))
    gone: list[Kept] = []
    for candidate in candidates:
        if need + _size(each for each in here if each not in gone) <= limit:
            break
        gone.append(candidate)
    _delete(gone)
    return True


def _size(several: Iterable[Kept]) -> int:
    return sum({blob: size for each in several for blob, size in each.blobs.items()}.values())


def _kept(folder: Path) -> list[Kept]:
    found = []
    for mark in notes_folder(folder).glob("*.kept"):
        snapshot = folder / "snapshots" / mark.stem
        blobs = {}
        for name, modified in json.loads(mark.read_text()).items():
            blob = _blob(snapshot / name)
            # Another time of writing: it went, and somebody else downloaded it again.
            if blob.exists() and blob.stat().st_mtime_ns == modified:
                blobs[blob] = blob.stat().st_size
        if blobs:
            found.append(Kept(snapshot, blobs, mark.stat().st_mtime_ns))
    return found


def _blob(path: Path) -> Path:
    """The client's file behind a snapshot's entry, one link further; itself without links."""
    return Path(os.path.abspath(path.parent / path.readlink())) if path.is_symlink() else path  # noqa: PTH100


def _delete(gone: Sequence[Kept]) -> None:
    blobs = {(each.snapshot, blob) for each in gone for blob in each.blobs}
    if blobs:
        cache = scan_cache_dir(cache_root())
        cache.delete_files(
            *(
                file
                for repo in cache.repos
                for revision in repo.revisions
                for file in revision.files
                if (revision.snapshot_path, file.blob_path) in blobs
            )
        ).execute()
