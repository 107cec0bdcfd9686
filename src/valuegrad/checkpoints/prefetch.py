"""Checkpoints brought here one at a time, the next one while this one is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

from valuegrad.checkpoints.checkpoint import Checkpoint
from valuegrad.checkpoints.hub_cache import HubCommit
from valuegrad.checkpoints.hub_files import Transfer, download, missing_bytes, weight_files
from valuegrad.checkpoints.hub_room import free_bytes, in_words, make_room
from valuegrad.errors import UserError, ValuegradError

_GLANCE_SECONDS = 0.5


class Downloads:
    """Brings checkpoints of the hub here; used as a context. Local ones pass through.

    Args:
        limit: bytes that what valuegrad downloaded may take on the disk, None for no limit.
        progress: told what is being done, the megabytes done and in all.

    Example:
        ``with Downloads(50 * 10**9) as downloads: local = downloads.get(checkpoint)``
    """

    def __init__(
        self,
        limit: int | None = None,
        progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    ) -> None:
        self._limit, self._progress = limit, progress
        self._running: dict[HubCommit, tuple[Future[Path], Transfer]] = {}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="download")

    def __enter__(self) -> Downloads:
        """Nothing is downloaded before it is asked for."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop what nobody waits for any more."""
        for _future, transfer in self._running.values():
            transfer.stop.set()
        self._worker.shutdown(wait=True, cancel_futures=True)

    def get(self, checkpoint: Checkpoint, later: Sequence[Checkpoint] = ()) -> Checkpoint:
        """Have a checkpoint here, and begin to bring the next one.

        Args:
            checkpoint: which.
            later: those that will be asked for afterwards, in order.

        Returns:
            The checkpoint with the folder that its files are in.

        Raises:
            UserError: the revision holds no usable model, or is larger than the limit.
            DownloadError: the download failed.
        """
        after = [c.hub for c in later if c.hub is not None]
        if checkpoint.hub is not None:
            checkpoint = replace(checkpoint, path=self._wait(checkpoint.hub, after))
        if after:
            self._prefetch(after, checkpoint.hub)
        return checkpoint

    def _wait(self, source: HubCommit, after: Sequence[HubCommit]) -> Path:
        if source not in self._running:
            weights = weight_files(source)
            if not self._make_room(missing_bytes(source, weights), [source], after):
                size = in_words(sum(file.size for file in weights.values()))
                raise UserError(
                    "--cache-limit",
                    in_words(self._limit or 0),
                    f"room for {source.name}, which takes {size}",
                    "raise it",
                )
            self._start(source)
        future, transfer = self._running[source]
        what = f"downloading {source.revision}, MB"
        while not wait([future], _GLANCE_SECONDS).done:
            self._progress(what, transfer.done // 10**6, max(1, transfer.total // 10**6))
        del self._running[source]
        return future.result()

    def _prefetch(self, after: Sequence[HubCommit], now: HubCommit | None) -> None:
        following = after[0]
        if following in self._running:
            return
        try:
            need = missing_bytes(following, weight_files(following))
        except ValuegradError:
            return  # It is told when its turn comes.
        in_use = [following] if now is None else [now, following]
        if need <= free_bytes() and self._make_room(need, in_use, after):
            self._start(following)

    def _start(self, source: HubCommit) -> None:
        transfer = Transfer()
        self._running[source] = self._worker.submit(download, source, transfer), transfer

    def _make_room(
        self, need: int, in_use: Sequence[HubCommit], after: Sequence[HubCommit]
    ) -> bool:
        keep, later = ([each.snapshot for each in commits] for commits in (in_use, after))
        return make_room(need, self._limit, keep, later)
