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
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from valuegrad.checkpoints import Checkpoint, content_sha256, resolve
from valuegrad.errors import RunError, UserError
from valuegrad.policy import Policy, load_policy
from valuegrad.score import score
from valuegrad.study.config import StudyConfig
from valuegrad.study.records import Record, Records, claim, forget
from valuegrad.tasks.build import build_task
from valuegrad.tasks.task import Task
from valuegrad.training.one_token import train

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the number done and the number in all."""

_NAMES = ("checkpoint", "label", "revision", "step", "tokens")


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
    progress: Progress = lambda what, done, total: None,
) -> Outcome:
    """Make every measurement of a study that has no record yet.

    A checkpoint that fails is reported and the rest go on. Where all fail for a reason that lies in
    the request, nothing is left behind.

    Args:
        config: what to measure.
        folder: the study folder; with ``score`` or ``train`` alone the other half can follow.
        measurements: ``score``, ``train`` or both.
        device: a torch device.
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
    study = _Study(config, Records(folder), task, device)
    try:
        study.read(checkpoints)
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
    def __init__(self, config: StudyConfig, records: Records, task: Task, device: str) -> None:
        self.config, self.records, self.task, self.device = config, records, task, device
        self.contents: dict[Checkpoint, str] = {}
        self.scores: dict[Checkpoint, Record] = {}
        self.runs: dict[Checkpoint, list[Record]] = {}
        self.errors: dict[Checkpoint, Exception] = {}
        self.reused = 0

    def read(self, checkpoints: tuple[Checkpoint, ...]) -> None:
        for checkpoint in checkpoints:
            with _Guard(self, checkpoint):
                self.contents[checkpoint] = content_sha256(checkpoint)

    def score_all(self, progress: Progress) -> None:
        total = len(self.contents)
        for done, (checkpoint, content) in enumerate(self.contents.items()):
            progress("scoring", done, total)
            with _Guard(self, checkpoint):
                extra = {"site": self.config.site, "alpha": self.config.alpha}
                inputs = {**self._inputs(content), **extra}
                make = partial(self._score, checkpoint)
                self.scores[checkpoint] = self._once("score", inputs, make)
        progress("scoring", total, total)

    def train_all(self, progress: Progress) -> None:
        seeds, first = self.config.budget.seeds, self.config.budget.seed
        waiting = self._whole()
        for done, checkpoint in enumerate(waiting):
            loaded = _Loaded(self, checkpoint)
            for seed in range(seeds):
                progress("training", done * seeds + seed, len(waiting) * seeds)
                with _Guard(self, checkpoint):
                    inputs = {**self._inputs(self.contents[checkpoint]), "seed": first + seed}
                    make = partial(self._train, loaded, first + seed)
                    record = self._once("train", inputs, make)
                    self.runs.setdefault(checkpoint, []).append(record)
        progress("training", len(waiting) * seeds, len(waiting) * seeds)

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

    def _inputs(self, content: str) -> dict[str, Any]:
        budget = asdict(self.config.budget)
        del budget["seeds"], budget["seed"]
        return {
            "content_sha256": content,
            "task_sha256": self.task.sha256,
            "dtype": self.config.dtype,
            "budget": budget,
        }

    def _once(self, measurement: str, inputs: dict[str, Any], make: Callable[[], Any]) -> Record:
        found = self.records.get(measurement, inputs)
        if found is not None:
            self.reused += 1
            return found
        start = time.perf_counter()
        result = make()
        self.records.put(Record(measurement, inputs, result, time.perf_counter() - start))
        # Read back, so that a resumed study goes on from the very same values.
        stored = self.records.get(measurement, inputs)
        assert stored is not None
        return stored

    def load(self, checkpoint: Checkpoint) -> Policy:
        return load_policy(checkpoint, device=self.device, dtype=self.config.dtype)

    def _score(self, checkpoint: Checkpoint) -> dict[str, Any]:
        found = score(
            self.load(checkpoint),
            self.task,
            budget=self.config.budget,
            site=self.config.site,
            alpha=self.config.alpha,
        )
        # Names are no part of a record: a checkpoint that moved is the same checkpoint.
        names = (f.name for f in dataclasses.fields(found))
        kept = [name for name in names if name not in (*_NAMES, "seconds")]
        result = {name: getattr(found, name) for name in kept}
        result["rows"] = {k: np.asarray(v).tolist() for k, v in found.rows.items()}
        return result

    def _train(self, loaded: _Loaded, seed: int) -> dict[str, Any]:
        run = train(loaded.policy, self.task, budget=self.config.budget, seed=seed)
        return {
            "seed": seed,
            "updates": list(run.budget.updates),
            "reward_before": run.reward_before,
            "rewards_after": list(run.rewards_after),
            "gains": list(run.gains),
            "zero_spread_groups": run.zero_spread_groups,
        }


@dataclass(frozen=True)
class _Loaded:
    """A checkpoint that is loaded when its first missing run needs it, and once."""

    study: _Study
    checkpoint: Checkpoint

    @cached_property
    def policy(self) -> Policy:
        return self.study.load(self.checkpoint)


class _Guard:
    """Keeps the failure of one checkpoint from stopping the others; a full disk stops all."""

    def __init__(self, study: _Study, checkpoint: Checkpoint) -> None:
        self.study, self.checkpoint = study, checkpoint

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, UserError) or (
            isinstance(error, RunError) and not isinstance(error.__cause__, OSError)
        ):
            self.study.errors.setdefault(self.checkpoint, error)
            return True
        return False
