"""The sampling gap against its bounds (Prop. 2, Fig. 2), with a record for each checkpoint."""

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from valuegrad.checkpoints.references import resolve
from valuegrad.model.policy import Policy
from valuegrad.rewards.example import Example
from valuegrad.study.measuring import Job, Measuring, Resources
from valuegrad.study.records import Records
from valuegrad.tasks.settings import TaskSettings, build_task
from valuegrad.theory.bound import bound_points
from valuegrad.theory.settings import BoundSettings


@dataclass(frozen=True)
class Bounds:
    """The points of every checkpoint that went through, and what failed."""

    points: list[dict[str, Any]]
    failures: dict[str, str]  # checkpoint → message
    reused: int  # how many records were there already


FORMULAS = 2  # counts up when a point holds something else


def measure_bounds(
    references: Sequence[str],
    task: TaskSettings,
    settings: BoundSettings,
    out: Path,
    resources: Resources,
) -> Bounds:
    """Measure the gap and its bounds where there is no record below a folder yet."""
    checkpoints, built = resolve(references), build_task(task)
    count = min(settings.examples, len(built.evaluation))
    examples = random.Random(settings.seed).sample(built.evaluation, count)
    inputs = {"task_sha256": built.sha256, "formulas": FORMULAS, **asdict(settings)}

    def jobs(content: str) -> list[Job]:
        make = partial(_points, examples, settings)
        return [Job("bound", {"content_sha256": content, **inputs}, make)]

    measuring = Measuring(Records(out), settings.dtype, resources)
    measuring.read(checkpoints)
    records = measuring.measure("measuring", jobs)
    points = []
    for checkpoint in measuring.whole():
        names = {"checkpoint": checkpoint.name, "step": checkpoint.step}
        kept = records[checkpoint][0].result["points"]
        points += [names | {k: math.nan if v is None else v for k, v in p.items()} for p in kept]
    return Bounds(points, measuring.failures(), measuring.reused)


def _points(examples: Sequence[Example], settings: BoundSettings, policy: Policy) -> dict[str, Any]:
    found = bound_points(
        policy, examples, positions=settings.positions, temperature=settings.temperature
    )
    # Names are no part of a record: a checkpoint that moved is the same checkpoint.
    kept = [{k: v for k, v in p.items() if k not in ("checkpoint", "step")} for p in found]
    return {"points": kept}
