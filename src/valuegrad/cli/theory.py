"""The commands that check the theory on a checkpoint: ``verify`` and ``bound``."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import Parameter

from valuegrad.checkpoints.checkpoint import Checkpoint
from valuegrad.checkpoints.prefetch import Downloads
from valuegrad.checkpoints.references import resolve
from valuegrad.cli.console import hide_bars_of_transformers, print_json, stdout
from valuegrad.cli.progress import StderrProgress
from valuegrad.cli.settings import COMMON, TASK, CommonFlags, TaskFlags
from valuegrad.cli.tables import bound_table, verify_table
from valuegrad.errors import RunError, UserError
from valuegrad.files import to_json, write_atomically
from valuegrad.model.policy import Policy, check_code, load_policy
from valuegrad.rewards.example import Example
from valuegrad.tasks.settings import TaskSettings, build_task
from valuegrad.theory.bound import ROUNDING, bound_points, summarise_bounds
from valuegrad.theory.statement import Statement
from valuegrad.theory.verify import PARTS, PROMPT, verify

Flat = Parameter(name="*")


def verify_command(
    checkpoint: Annotated[str, Parameter(name="CHECKPOINT")],
    /,
    *,
    prompt: str = PROMPT,
    seed: int = 0,
    dtype: str = "float64",
    common: Annotated[CommonFlags, Flat] = COMMON,
) -> int:
    """Evaluate every statement of the theory on a checkpoint: left side, right side, holds or not.

    The paper's own form stands beside the corrected one where it fails. Leaves with 1 if a
    corrected statement fails. Example: ``valuegrad verify runs/demo/pretrain/step600``

    Args:
        checkpoint: a folder.
        prompt: text that the policy's own completion follows.
        seed: of the completion, the rewards and the directions.
        dtype: float64, in which identities hold to rounding.
        common: shared flags.
    """
    with one_policy(checkpoint, common, dtype) as (policy, progress):
        done = iter(range(len(PARTS)))
        found = verify(
            policy,
            prompt=prompt,
            seed=seed,
            progress=lambda name: progress(name, next(done), len(PARTS)),
        )
    rows = [_row(statement) for statement in found]
    if common.out is not None:
        write_atomically(common.out / "verify.json", to_json(rows))
    failed = [s for s in found if s.form == "corrected" and not s.holds]
    if common.json:
        print_json(rows)
    else:
        stdout.print(verify_table(found))
        paper = [s for s in found if s.form == "paper"]
        stdout.print(
            f"{len(found) - len(paper) - len(failed)} corrected statements hold, "
            f"{len(failed)} fail; of {len(paper)} forms as in the paper "
            f"{sum(not s.holds for s in paper)} fail here"
        )
    for statement in failed:
        print(f"valuegrad: fails: {statement.name} ({statement.source})", file=sys.stderr)
    return 1 if failed else 0


def bound_command(
    checkpoints: Annotated[
        list[str],
        Parameter(
            name="CHECKPOINT",
            help="Folders, quoted globs such as 'runs/step*', or 'repo@revision*' on the hub.",
        ),
    ],
    /,
    *,
    positions: int = 4,
    examples: int = 8,
    temperature: float = 1.0,
    seed: int = 0,
    dtype: str = "float32",
    task: Annotated[TaskFlags, Flat] = TASK,
    common: Annotated[CommonFlags, Flat] = COMMON,
) -> int:
    """Measure the sampling gap against its bounds over a task's held-out prompts (Fig. 2).

    Example: ``valuegrad bound 'runs/demo/pretrain/step*' --task label-copy --out runs/bound``

    Args:
        checkpoints: what to measure.
        positions: measured in each prompt, the last one where the answer is sampled.
        examples: held-out prompts.
        temperature: of the relaxation, above 0.
        seed: of which held-out prompts.
        dtype: float32 or float64.
        task: the task.
        common: shared flags.
    """
    for flag, value in (("--positions", positions), ("--examples", examples)):
        if value < 1:
            raise UserError(flag, str(value), "1 or more", "leave it out for the default")
    if dtype not in ROUNDING:
        raise UserError("--dtype", repr(dtype), f"one of {', '.join(ROUNDING)}", "use float32")
    found, chosen = resolve(checkpoints), _examples(task, examples, seed)
    hide_bars_of_transformers()
    points: list[dict[str, Any]] = []
    failures: dict[str, str] = {}
    with StderrProgress() as progress, Downloads(common.cache_bytes, progress) as downloads:
        for checkpoint in found:
            check_code(checkpoint, common.trust_remote_code)
        for i, checkpoint in enumerate(found):
            progress("measuring", i, len(found))
            try:
                policy = _load(downloads.get(checkpoint, found[i + 1 :]), common, dtype)
                points += bound_points(policy, chosen, positions=positions, temperature=temperature)
            except RunError as error:
                failures[checkpoint.name] = str(error)
        progress("measuring", len(found), len(found))
    for name, message in failures.items():
        print(f"valuegrad: {name} failed and was left out: {message}", file=sys.stderr)
    if not points:
        return 1
    summary = summarise_bounds(points, dtype)
    paths = _write(common, points, summary)
    if common.json:
        print_json([*points, summary])
    else:
        stdout.print(bound_table(summary))
        stdout.print(
            f"{summary['points']} points, {summary['violations']} violations; the sharp bound is "
            f"{summary['tighter']:.3g} times tighter than the paper's in the median"
        )
        for path in paths:
            stdout.print(path, soft_wrap=True)
    return 1 if failures or summary["violations"] else 0


def _write(common: CommonFlags, points: list[dict[str, Any]], summary: dict[str, Any]) -> list[str]:
    if common.out is None:
        return []
    from valuegrad.report.bound_figures import bound_chart
    from valuegrad.report.page import draw

    data = common.out / "bound.json"
    write_atomically(data, to_json([*points, summary]))
    return [str(data), *draw(bound_chart(points, summary), common.out, "bound")]


@contextmanager
def one_policy(
    reference: str, common: CommonFlags, dtype: str
) -> Iterator[tuple[Policy, StderrProgress]]:
    """The policy of the one checkpoint that a reference means, and where to tell of progress."""
    hide_bars_of_transformers()
    found = resolve([reference])
    if len(found) > 1:
        names = ", ".join(c.label for c in found[:3])
        raise UserError(
            "CHECKPOINT",
            f"{reference}, {len(found)} checkpoints ({names} …)",
            "one checkpoint",
            "name one of them",
        )
    check_code(found[0], common.trust_remote_code)
    with StderrProgress() as progress, Downloads(common.cache_bytes, progress) as downloads:
        yield _load(downloads.get(found[0]), common, dtype), progress


def _load(checkpoint: Checkpoint, common: CommonFlags, dtype: str) -> Policy:
    return load_policy(
        checkpoint, device=common.device, dtype=dtype, trust_remote_code=common.trust_remote_code
    )


def _examples(task: TaskSettings, count: int, seed: int) -> list[Example]:
    held_out = list(build_task(task).evaluation)
    return random.Random(seed).sample(held_out, min(count, len(held_out)))


def _row(statement: Statement) -> dict[str, Any]:
    return {**asdict(statement), "holds": statement.holds, "slack": statement.slack}
