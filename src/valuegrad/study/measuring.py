"""The one loop over checkpoints: what has no record yet is measured, and kept as one.

A checkpoint on the hub is downloaded where a record is missing, the next while one is measured. A
checkpoint that fails is noted and the rest go on; records that cannot be written stop them all.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from valuegrad.checkpoints.checkpoint import Checkpoint
from valuegrad.checkpoints.files import content_sha256
from valuegrad.checkpoints.prefetch import Downloads, Progress
from valuegrad.errors import RunError, ValuegradError
from valuegrad.model.loading import check_code, load_policy
from valuegrad.model.policy import Policy
from valuegrad.study.records import Record, Records


@dataclass(frozen=True)
class Resources:
    """Where checkpoints are measured, and what they may take; no part of any result."""

    device: str = "cpu"
    cache_limit: int | None = None  # bytes that downloaded checkpoints may take
    trust_remote_code: bool = False
    progress: Progress = lambda what, done, total: None

    def load(self, checkpoint: Checkpoint, dtype: str) -> Policy:
        """The policy of a checkpoint that is here."""
        trust = self.trust_remote_code
        return load_policy(checkpoint, device=self.device, dtype=dtype, trust_remote_code=trust)


@dataclass(frozen=True)
class Job:
    """One measurement of a checkpoint: what decides its record, and how it is made."""

    measurement: str
    inputs: dict[str, Any]
    make: Callable[[Policy], dict[str, Any]]


class Measuring:
    """Measures checkpoints into records."""

    def __init__(self, records: Records, dtype: str, resources: Resources) -> None:
        self.records, self.dtype, self.resources = records, dtype, resources
        self.contents: dict[Checkpoint, str] = {}
        self.errors: dict[Checkpoint, Exception] = {}
        self.reused = 0

    def read(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Find out what the checkpoints hold, by which their records are known."""
        remote = any(checkpoint.hub for checkpoint in checkpoints)
        for done, checkpoint in enumerate(checkpoints):
            if remote:
                self.resources.progress("looking up", done, len(checkpoints))
            with self._noting_failure(checkpoint):
                check_code(checkpoint, self.resources.trust_remote_code)
                self.contents[checkpoint] = content_sha256(checkpoint)
        self._raise_if_all_failed()

    def measure(
        self, what: str, jobs_of: Callable[[str], list[Job]]
    ) -> dict[Checkpoint, list[Record]]:
        """Do the jobs that the content of each checkpoint asks for; a record a job."""
        todo = {checkpoint: jobs_of(self.contents[checkpoint]) for checkpoint in self.whole()}
        path = self.records.path
        missing = [
            checkpoint
            for checkpoint, jobs in todo.items()
            if not all(path(job.measurement, job.inputs).is_file() for job in jobs)
        ]
        found: dict[Checkpoint, list[Record]] = {checkpoint: [] for checkpoint in todo}
        done, total = 0, sum(map(len, todo.values()))
        with Downloads(self.resources.cache_limit, self.resources.progress) as downloads:
            for checkpoint, jobs in todo.items():
                later = missing[missing.index(checkpoint) + 1 :] if checkpoint in missing else []
                # Both when the first missing record needs it, and once.
                fetch = cache(partial(downloads.get, checkpoint, later))
                load = cache(partial(self.resources.load, dtype=self.dtype))
                with self._noting_failure(checkpoint):
                    for i, job in enumerate(jobs):
                        self.resources.progress(what, done + i, total)
                        found[checkpoint].append(self._record(job, fetch, load))
                done += len(jobs)
        self._raise_if_all_failed()
        self.resources.progress(what, total, total)
        return found

    def whole(self) -> list[Checkpoint]:
        """The checkpoints that have not failed."""
        return [checkpoint for checkpoint in self.contents if checkpoint not in self.errors]

    def failures(self) -> dict[str, str]:
        """Checkpoint → message."""
        return {checkpoint.name: str(error) for checkpoint, error in self.errors.items()}

    def _record(
        self, job: Job, fetch: Callable[[], Checkpoint], load: Callable[[Checkpoint], Policy]
    ) -> Record:
        found = self.records.get(job.measurement, job.inputs)
        if found is not None:
            self.reused += 1
            return found
        local = fetch()
        start = time.perf_counter()
        record = Record(job.make(load(local)), time.perf_counter() - start)
        return self.records.put(job.measurement, job.inputs, record)

    @contextmanager
    def _noting_failure(self, checkpoint: Checkpoint) -> Iterator[None]:
        try:
            yield
        except ValuegradError as error:
            if type(error) is RunError and isinstance(error.__cause__, OSError):
                raise  # Records cannot be written: the others would meet it too.
            self.errors[checkpoint] = error

    def _raise_if_all_failed(self) -> None:
        if self.errors and not self.whole():
            raise next(iter(self.errors.values()))
