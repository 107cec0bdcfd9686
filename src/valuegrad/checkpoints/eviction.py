"""The disk space of downloads: which files are valuegrad's, and which of them go at a limit."""

import json
import os
import shutil
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from huggingface_hub import scan_cache_dir
from pydantic import ByteSize

from valuegrad.checkpoints.checkpoint import cache_root
from valuegrad.errors import RunError
from valuegrad.files import write_atomically

NOTES = ".valuegrad"  # folder in a repository's cache, so that notes go when it is deleted


def in_words(size: int) -> str:
    """Bytes as text, such as 2.9 GB."""
    return ByteSize(size).human_readable(decimal=True, separator=" ")


def free_bytes() -> int:
    """What is free where the cache of the hub's client is, or will be."""
    root = cache_root()
    return shutil.disk_usage(next(p for p in (root, *root.parents) if p.exists())).free


def downloaded(repository: str = "models--*") -> dict[Path, list[Path]]:
    """Snapshot → its weight files that valuegrad downloaded, least recently used first."""
    found = {}
    notes = cache_root().glob(f"{repository}/{NOTES}/*.kept")
    for note in sorted(notes, key=lambda note: note.stat().st_mtime_ns):
        snapshot = note.parents[1] / "snapshots" / note.stem
        if not (os.access(note, os.R_OK) and os.access(snapshot, os.W_OK)):
            continue  # Another user's, or only to be read.
        times = {snapshot / name: time for name, time in json.loads(note.read_text()).items()}
        # Another time of writing: it went, and somebody else downloaded it again.
        files = [f for f, time in times.items() if f.exists() and f.stat().st_mtime_ns == time]
        if files:
            found[snapshot] = files
    return found


def note_download(
    snapshot: Path, weights: Sequence[str], new: Collection[str], linked: Collection[str]
) -> None:
    """Note that a commit is used now, and which of its weight files came through valuegrad.

    Those are what was `new` in the cache, and what was only `linked` to another commit's of them.
    """
    repository = snapshot.parents[1]
    ours = downloaded(repository.name)
    blobs = {file.resolve() for files in ours.values() for file in files}
    kept = {snapshot / name for name in new}.union(ours.get(snapshot, ()))
    kept.update(file for name in linked if (file := snapshot / name).resolve() in blobs)
    times = {n: (snapshot / n).stat().st_mtime_ns for n in weights if snapshot / n in kept}
    if times:
        try:
            write_atomically(repository / NOTES / f"{snapshot.name}.kept", json.dumps(times))
        except RunError:
            if new:  # Else the note is there, and only says when it was used.
                raise


def evict(need: int, limit: int | None, in_use: Collection[Path], later: Sequence[Path]) -> bool:
    """Delete weights that valuegrad downloaded until `need` more bytes fit, or none; whether so."""
    if limit is None:
        return True
    stay, gone = downloaded(), set[Path]()
    place = {snapshot: -i for i, snapshot in enumerate(later)}
    # First what is not asked for any more, least recently used ahead; then `later`, the last ahead.
    queue = [snapshot for snapshot in stay if snapshot not in in_use]
    queue.sort(key=lambda snapshot: place.get(snapshot, -len(later)))
    while need + _size(stay.values()) > limit:
        if not queue:
            return False
        gone.update(stay.pop(queue.pop(0)))
    if gone:
        cache = scan_cache_dir(cache_root())
        every = (f for repo in cache.repos for revision in repo.revisions for f in revision.files)
        cache.delete_files(*(file for file in every if file.file_path in gone)).execute()
    return True


def _size(snapshots: Iterable[list[Path]]) -> int:
    blobs = {file.resolve() for files in snapshots for file in files}
    return sum(blob.stat().st_size for blob in blobs)
