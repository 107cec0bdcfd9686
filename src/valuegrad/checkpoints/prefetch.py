"""Checkpoints downloaded one at a time, the next one while this one is measured."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path

from valuegrad.checkpoints.checkpoint import Checkpoint, HubCommit
from valuegrad.checkpoints.eviction import evict, free_bytes, in_words
from valuegrad.checkpoints.hub import Transfer, download, missing, weight_files
from valuegrad.checkpoints.hub_failures import explained
from valuegrad.errors import UserError, ValuegradError

Progress = Callable[[str, int, int], None]
_REPORT_SECONDS = 0.5


class Downloads(AbstractContextManager["Downloads"]):
    """Has checkpoints of the hub here; used as a context. Local ones pass through.

    What valuegrad downloaded takes at most `cache_limit` bytes. The progress callback gets what is
    being done, the megabytes done and those in all.
    """

    def __init__(
        self, cache_limit: int | None = None, progress: Progress = lambda *_: None
    ) -> None:
        self._limit, self._progress = cache_limit, progress
        self._running: dict[HubCommit, tuple[Future[Path], Transfer]] = {}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="download")

    def __exit__(self, *_: object) -> None:
        for _future, transfer in self._running.values():
            transfer.stop.set()
        self._worker.shutdown(wait=True, cancel_futures=True)

    def get(self, checkpoint: Checkpoint, later: Sequence[Checkpoint] = ()) -> Checkpoint:
        """Have a checkpoint here, and start on the next of those that will be asked for later."""
        after = [c.hub for c in later if c.hub is not None]
        waiting = [source.snapshot for source in after]
        if checkpoint.hub is not None:
            checkpoint = replace(checkpoint, path=self._wait(checkpoint.hub, waiting))
        if after and after[0] not in self._running:
            in_use = [c.snapshot for c in (checkpoint.hub, after[0]) if c is not None]
            with suppress(ValuegradError):  # Reported when it is measured.
                self._start(after[0], in_use, waiting, ahead=True)
        return checkpoint

    def _wait(self, source: HubCommit, later: list[Path]) -> Path:
        if source not in self._running and not self._start(source, [source.snapshot], later):
            size = in_words(sum(file.size for file in weight_files(source).values()))
            wanted = f"enough for {source.name}, which takes {size}"
            raise UserError("cache_limit", in_words(self._limit or 0), wanted, "raise it")
        future, transfer = self._running[source]
        what = f"downloading {source.revision}, MB"
        while not wait([future], _REPORT_SECONDS).done:
            self._progress(what, transfer.done // 10**6, max(1, transfer.total // 10**6))
        del self._running[source]
        return future.result()

    def _start(
        self, source: HubCommit, in_use: list[Path], later: list[Path], ahead: bool = False
    ) -> bool:
        """Start a download, after the evictions that it needs; whether it fits."""
        weights = weight_files(source)
        with explained(source.repo, source.revision):
            need = sum(missing(source, weights).values())
            fits = not (ahead and need > free_bytes()) and evict(need, self._limit, in_use, later)
        if fits:
            transfer = Transfer()
            self._running[source] = self._worker.submit(download, source, transfer), transfer
        return fits
