"""A study: score every checkpoint, run RL from each, keep every record, summarise.

Scores come first, so that the ranking is there before any RL runs. A measurement that has a record
is not made again.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from valuegrad.checkpoints.checkpoint import Checkpoint
from valuegrad.checkpoints.files import content_sha256
from valuegrad.checkpoints.prefetch import Downloads
from valuegrad.checkpoints.references import resolve
from valuegrad.errors import DownloadError, RunError, UserError
from valuegrad.impact.score import score
from valuegrad.model.policy import Policy, check_code, load_policy
from valuegrad.study.config import StudyConfig
from valuegrad.study.records import Record, Records, claim, forget
from valuegrad.tasks.settings import build_task
from valuegrad.tasks.task import Task
from valuegrad.training.train import train

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the number done and the number in all."""

_NAMES = ("checkpoint", "label", "revision", "step", "tokens", "commit")


@dataclass(frozen=True)
class Measured:
    """The records of one checkpoint.

    Attributes:
        checkpoint: which.
        score: the result of ``score``, rows included.
        runs: the results of ``train``, one a seed.
        seconds: wall-clock time of the score, and of the runs together.
    """

    checkpoint: Checkpoint
    score: dict[str, Any]
    runs: tuple[dict[str, Any], ...]
    seconds: tuple[float, float]

    @property
    def measurements(self) -> dict[str, Any]:
        """The score without its per-prompt rows: an object of ``valuegrad score --json``."""
        return {k: v for k, v in self.score.items() if k != "rows"}


@dataclass(frozen=True)
class Outcome:
    """What a study measured, and what failed.

    Attributes:
        measured: the checkpoints that went through, in order.
        failures: checkpoint → message.
        reused: how many records were there already.
    """

    measured: tuple[Measured, ...]
    failures: dict[str, str]
    reused: int


def run_study(
    config: StudyConfig,
    folder: Path,
    *,
    measurements: Collection[str] = ("score", "train"),
    device: str = "cpu",
    cache_limit: int | None = None,
    trust_remote_code: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> Outcome:
    """Make every measurement of a study that has no record yet.

    A checkpoint on the hub is downloaded where a record is missing, one while another is measured.
    A checkpoint that fails is reported and the rest go on. Where all fail for a reason that lies in
    the request, nothing is left behind.

    Args:
        config: what to measure.
        folder: the study folder; with ``score`` or ``train`` alone the other half can follow.
        measurements: ``score``, ``train`` or both.
        device: a torch device.
        cache_limit: bytes that downloaded checkpoints may take, None for no limit.
        trust_remote_code: whether code that a checkpoint brings may run here.
        progress: told of every step.

    Returns:
        The records of all checkpoints, and the failures.

    Raises:
        UserError: the request is wrong, for every checkpoint.
        RunError: the disk is full, or every checkpoint failed while running.
    """
    task = build_task(config.task)
    checkpoints = resolve(config.checkpoints)
    new = claim(folder, config.resolved())
    try:
        with Downloads(cache_limit, progress) as downloads:
            study = _Study(config, Records(folder), task, device, downloads, trust_remote_code)
            study.read(checkpoints, progress)
            study.raise_if_all_failed()
            if "score" in measurements:
                study.score_all(progress)
            if "train" in measurements:
                study.train_all(progress)
        study.raise_if_all_failed()
    except (UserError, RunError):
        if new:
            forget(folder)
        raise
    return study.outcome()


class _Study:
    def __init__(
        self,
        config: StudyConfig,
        records: Records,
        task: Task,
        device: str,
        downloads: Downloads,
        trust_remote_code: bool,
    ) -> None:
        self.config, self.records, self.task, self.device = config, records, task, device
        self.downloads, self.trust_remote_code = downloads, trust_remote_code
        self.waiting: list[Checkpoint] = []
        self.contents: dict[Checkpoint, str] = {}
        self.scores: dict[Checkpoint, Record] = {}
        self.runs: dict[Checkpoint, list[Record]] = {}
        self.errors: dict[Checkpoint, Exception] = {}
        self.reused = 0

    def read(self, checkpoints: tuple[Checkpoint, ...], progress: Progress) -> None:
        remote = any(checkpoint.hub for checkpoint in checkpoints)
        for done, checkpoint in enumerate(checkpoints):
            if remote:
                progress("looking up", done, len(checkpoints))
            with _Guard(self, checkpoint):
                check_code(checkpoint, self.trust_remote_code)
                self.contents[checkpoint] = content_sha256(checkpoint)

    def score_all(self, progress: Progress) -> None:
        total = len(self.contents)
        self.waiting = [c for c in self.contents if not self._has("score", self._score_inputs(c))]
        for done, checkpoint in enumerate(self.contents):
            progress("scoring", done, total)
            with _Guard(self, checkpoint):
                inputs = self._score_inputs(checkpoint)
                self.scores[checkpoint] = self._once("score", inputs, checkpoint, self._score)
        if self._whole():
            progress("scoring", total, total)

    def train_all(self, progress: Progress) -> None:
        seeds, first = self.config.budget.seeds, self.config.budget.seed
        whole = self._whole()
        self.waiting = [
            c
            for c in whole
            if not all(self._has("train", self._train_inputs(c, first + s)) for s in range(seeds))
        ]
        for done, checkpoint in enumerate(whole):
            # Loaded when the first missing run needs it, and once.
            load = cache(self._load)
            for seed in range(seeds):
                progress("training", done * seeds + seed, len(whole) * seeds)
                if isinstance(self.errors.get(checkpoint), DownloadError):
                    break
                with _Guard(self, checkpoint):
                    inputs = self._train_inputs(checkpoint, first + seed)
                    make = partial(self._train, load, first + seed)
                    record = self._once("train", inputs, checkpoint, make)
                    self.runs.setdefault(checkpoint, []).append(record)
        progress("training", len(whole) * seeds, len(whole) * seeds)

    def raise_if_all_failed(self) -> None:
        if self.errors and not self._whole():
            raise next(iter(self.errors.values()))

    def outcome(self) -> Outcome:
        measured = []
        for checkpoint in self._whole():
            score, runs = self.scores.get(checkpoint), self.runs.get(checkpoint, [])
            names = {name: getattr(checkpoint, name) for name in _NAMES[1:]}
            seconds = score.seconds if score else 0.0
            measured.append(
                Measured(
                    checkpoint,
                    {"checkpoint": checkpoint.name, **names, **score.result, "seconds": seconds}
                    if score
                    else {},
                    tuple(run.result for run in runs),
                    (seconds, math.fsum(run.seconds for run in runs)),
                )
            )
        failures = {checkpoint.name: str(error) for checkpoint, error in self.errors.items()}
        return Outcome(tuple(measured), failures, self.reused)

    def _whole(self) -> list[Checkpoint]:
        return [c for c in self.contents if c not in self.errors]

    def _score_inputs(self, checkpoint: Checkpoint) -> dict[str, Any]:
        extra = {
            "site": self.config.site,
            "alpha": self.config.alpha,
            "sampling": asdict(self.config.sampling),
        }
        inputs = {**self._inputs(self.contents[checkpoint]), **extra}
        # What runs the budget, and what of the model it moves, changes no score.
        del inputs["budget"]["engine"], inputs["budget"]["lora_rank"]
        return inputs

    def _train_inputs(self, checkpoint: Checkpoint, seed: int) -> dict[str, Any]:
        return {**self._inputs(self.contents[checkpoint]), "seed": seed}

    def _inputs(self, content: str) -> dict[str, Any]:
        budget = asdict(self.config.budget)
        del budget["seeds"], budget["seed"]
        return {
            "content_sha256": content,
            "task_sha256": self.task.sha256,
            "dtype": self.config.dtype,
            "budget": budget,
        }

    def _has(self, measurement: str, inputs: dict[str, Any]) -> bool:
        try:
            return self.records.get(measurement, inputs) is not None
        except UserError:
            return True  # It is damaged, which is told when its turn comes.

    def _once(
        self,
        measurement: str,
        inputs: dict[str, Any],
        checkpoint: Checkpoint,
        make: Callable[[Checkpoint], Any],
    ) -> Record:
        found = self.records.get(measurement, inputs)
        if found is not None:
            self.reused += 1
            return found
        later = self.waiting[self.waiting.index(checkpoint) + 1 :]
        local = self.downloads.get(checkpoint, later)
        start = time.perf_counter()
        result = make(local)
        self.records.put(Record(measurement, inputs, result, time.perf_counter() - start))
        # Read back, so that a resumed study goes on from the very same values.
        stored = self.records.get(measurement, inputs)
        assert stored is not None
        return stored

    def _load(self, checkpoint: Checkpoint) -> Policy:
        return load_policy(
            checkpoint,
            device=self.device,
            dtype=self.config.dtype,
            trust_remote_code=self.trust_remote_code,
        )

    def _score(self, checkpoint: Checkpoint) -> dict[str, Any]:
        found = score(
            self._load(checkpoint),
            self.task,
            budget=self.config.budget,
            site=self.config.site,
            alpha=self.config.alpha,
            sampling=self.config.sampling,
        )
        # Names are no part of a record: a checkpoint that moved is the same checkpoint.
        names = (f.name for f in dataclasses.fields(found))
        kept = [name for name in names if name not in (*_NAMES, "seconds")]
        result = {name: getattr(found, name) for name in kept}
        result["rows"] = {k: np.asarray(v).tolist() for k, v in found.rows.items()}
        return result

    def _train(
        self, load: Callable[[Checkpoint], Policy], seed: int, checkpoint: Checkpoint
    ) -> dict[str, Any]:
        run = train(load(checkpoint), self.task, budget=self.config.budget, seed=seed)
        return {
            "seed": seed,
            "updates": list(run.budget.updates),
            "reward_before": run.reward_before,
            "rewards_after": list(run.rewards_after),
            "gains": list(run.gains),
            "zero_spread_groups": run.zero_spread_groups,
            "engine": run.engine,
        }


class _Guard:
    """Keeps the failure of one checkpoint from stopping the others; a full disk stops all."""

    def __init__(self, study: _Study, checkpoint: Checkpoint) -> None:
        self.study, self.checkpoint = study, checkpoint

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, UserError | DownloadError) or (
            isinstance(error, RunError) and not isinstance(error.__cause__, OSError)
        ):
            self.study.errors.setdefault(self.checkpoint, error)
            return True
        return False
