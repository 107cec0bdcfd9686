"""A study: score every checkpoint, run RL from each, keep every record.

Scores come first, so that the ranking is there before any RL runs.
"""

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from valuegrad.checkpoints.checkpoint import Checkpoint
from valuegrad.checkpoints.references import resolve
from valuegrad.errors import RunError, UserError
from valuegrad.impact.score import FORMULAS, score
from valuegrad.methods import PER_LENGTH
from valuegrad.model.policy import Policy
from valuegrad.study.config import StudyConfig
from valuegrad.study.measuring import Job, Measuring, Resources
from valuegrad.study.records import Record, Records, claim, forget
from valuegrad.tasks.settings import build_task
from valuegrad.tasks.task import Task
from valuegrad.training.train import train

_NAMES = ("checkpoint", "label", "revision", "step", "tokens", "commit")


@dataclass(frozen=True)
class Measured:
    """The records of one checkpoint."""

    checkpoint: Checkpoint
    score: dict[str, Any]  # the result of `score` with its rows; empty where none was asked for
    runs: tuple[dict[str, Any], ...]  # the results of `train`, one a seed
    seconds: tuple[float, float]  # wall-clock time of the score, and of the runs together

    @property
    def measurements(self) -> dict[str, Any]:
        """The score without its per-prompt rows, as ``valuegrad score`` prints it."""
        return {k: v for k, v in self.score.items() if k != "rows"}


@dataclass(frozen=True)
class Outcome:
    """What a study measured, and what failed."""

    measured: tuple[Measured, ...]
    failures: dict[str, str]  # checkpoint → message
    reused: int  # how many records were there already
    prompts: tuple[int, int] = (0, 0)  # held-out prompts measured, and how many there were


def run_study(
    config: StudyConfig,
    out: Path,
    *,
    measurements: Collection[str] = ("score", "train"),
    resources: Resources | None = None,
) -> Outcome:
    """Make every measurement of a study that has no record below its folder yet.

    With ``score`` or ``train`` alone the other half can follow. Where every checkpoint fails, a
    new folder is left as it was.
    """
    task = build_task(config.task)
    checkpoints = resolve(config.checkpoints)
    new = claim(out, config.resolved())
    measuring = Measuring(Records(out), config.dtype, resources or Resources())
    scores: dict[Checkpoint, list[Record]] = {}
    runs: dict[Checkpoint, list[Record]] = {}
    try:
        measuring.read(checkpoints)
        if "score" in measurements:
            scores = measuring.measure("scoring", partial(_score_jobs, config, task))
        if "train" in measurements:
            runs = measuring.measure("training", partial(_train_jobs, config, task))
    except (UserError, RunError):
        if new:
            forget(out)
        raise
    found = (_measured(c, task, scores.get(c), runs.get(c, [])) for c in measuring.whole())
    prompts = (len(task.evaluation), task.n_available)
    return Outcome(tuple(found), measuring.failures(), measuring.reused, prompts)


def _measured(
    checkpoint: Checkpoint, task: Task, scores: list[Record] | None, runs: list[Record]
) -> Measured:
    result, seconds = {}, 0.0
    if scores:
        names = {name: getattr(checkpoint, name) for name in _NAMES[1:]}
        seconds = scores[0].seconds
        # Lines that the file has gained change no record of what was measured before.
        counts = {"n_prompts_available": task.n_available}
        result = {"checkpoint": checkpoint.name, **names, **scores[0].result, **counts}
        result["seconds"] = seconds
    trained = math.fsum(run.seconds for run in runs)
    return Measured(checkpoint, result, tuple(run.result for run in runs), (seconds, trained))


def _score_jobs(config: StudyConfig, task: Task, content: str) -> list[Job]:
    inputs = _inputs(config, task, content)
    inputs |= {"site": config.site, "alpha": config.alpha, "sampling": asdict(config.sampling)}
    inputs["formulas"] = FORMULAS
    if any(strata := [example.stratum for example in task.evaluation]):
        # They decide standard errors and no reward, so that RL runs need not be made again.
        inputs["strata"] = strata
    # What runs the budget, and what of the model it moves, changes no score.
    del inputs["budget"]["engine"], inputs["budget"]["lora_rank"]
    return [Job("score", inputs, partial(_score, config, task))]


def _train_jobs(config: StudyConfig, task: Task, content: str) -> list[Job]:
    inputs, first = _inputs(config, task, content), config.budget.seed
    if config.budget.method not in PER_LENGTH:
        inputs["formulas"] = FORMULAS  # their losses were Eq. 1's, which divides by the length
    return [
        Job("train", {**inputs, "seed": seed}, partial(_train, config, task, seed))
        for seed in range(first, first + config.budget.seeds)
    ]


def _inputs(config: StudyConfig, task: Task, content: str) -> dict[str, Any]:
    budget = asdict(config.budget)
    del budget["seeds"], budget["seed"]
    hashes = {"content_sha256": content, "task_sha256": task.sha256}
    return {**hashes, "dtype": config.dtype, "budget": budget}


def _score(config: StudyConfig, task: Task, policy: Policy) -> dict[str, Any]:
    found = score(
        policy,
        task,
        budget=config.budget,
        site=config.site,
        alpha=config.alpha,
        sampling=config.sampling,
    )
    # Names are no part of a record: a checkpoint that moved is the same checkpoint.
    others = {*_NAMES, "n_prompts_available", "seconds"}
    return {k: v for k, v in vars(found).items() if k not in others}


def _train(config: StudyConfig, task: Task, seed: int, policy: Policy) -> dict[str, Any]:
    run = train(policy, task, budget=config.budget, seed=seed)
    return {
        "seed": seed,
        "updates": list(run.budget.updates),
        "reward_before": run.reward_before,
        "rewards_after": list(run.rewards_after),
        "gains": list(run.gains),
        "zero_spread_groups": run.zero_spread_groups,
        "engine": run.engine,
    }
