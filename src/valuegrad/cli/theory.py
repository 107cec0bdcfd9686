"""The commands that check the theory on checkpoints: verify, bound and trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Literal

from valuegrad.cli import settings as flags
from valuegrad.cli.console import deliver
from valuegrad.cli.study import workplace
from valuegrad.errors import UserError
from valuegrad.theory.settings import MAX_TOKENS, PROMPT

if TYPE_CHECKING:
    from valuegrad.checkpoints.prefetch import Progress
    from valuegrad.model.policy import Policy


def verify(
    checkpoint: flags.Checkpoint,
    /,
    *,
    prompt: str = PROMPT,
    seed: int = 0,
    dtype: str = "float64",
    common: flags.CommonFlags = flags.COMMON,
) -> list[str]:
    """Evaluate every statement of the theory on a checkpoint: left side, right side, holds or not.

    The paper's own form stands beside the corrected one where it fails. Leaves with 1 if a
    corrected statement fails. Example: ``valuegrad verify runs/demo/pretrain/step600``

    Args:
        prompt: text that the policy's own completion follows.
        seed: of the completion, the rewards and the directions.
        dtype: float64, in which identities hold to rounding.
    """
    from valuegrad.cli.tables import verify_table
    from valuegrad.theory.verify import PARTS
    from valuegrad.theory.verify import verify as statements

    with one_policy(checkpoint, common, dtype) as (policy, progress):
        done = iter(range(len(PARTS)))
        found = statements(
            policy,
            prompt=prompt,
            seed=seed,
            progress=lambda name: progress(name, next(done), len(PARTS)),
        )
    added = ("holds", "slack", "kind", "check")
    rows = [asdict(s) | {name: getattr(s, name) for name in added} for s in found]
    failed = [s for s in found if s.form == "corrected" and not s.holds]
    paper = [s for s in found if s.form == "paper"]
    held = Counter(s.kind for s in found if s.holds)
    verdict = (
        f"{held['check']} checks and {held['bound']} bounds hold, {len(failed)} fail; of "
        f"{len(paper)} forms as in the paper {sum(not s.holds for s in paper)} fail here. "
        "A bound, with its slack ×, is true of the numbers and no check of the code"
    )
    deliver(common, rows, verify_table(found), verdict, name="verify")
    return [f"fails: {s.name} ({s.source})" for s in failed]


def bound(
    checkpoints: flags.Checkpoints,
    /,
    *,
    bound: flags.BoundFlags = flags.BOUND,
    task: flags.TaskFlags = flags.TASK,
    common: flags.CommonFlags = flags.COMMON,
) -> list[str]:
    """Measure the sampling gap against its bounds over a task's held-out prompts (Fig. 2).

    Leaves with 1 if a bound fails.
    Example: ``valuegrad bound 'runs/demo/pretrain/step*' --task label-copy --out runs/bound``
    """
    from valuegrad.cli.tables import bound_table
    from valuegrad.report.bound_figures import bound_chart
    from valuegrad.study.bounds import measure_bounds
    from valuegrad.theory.bound import summarise_bounds

    with workplace(common) as (folder, resources):
        found = measure_bounds(checkpoints, task, bound, folder, resources)
    summary = summarise_bounds(found.points, bound.dtype)
    verdict = (
        f"{summary['points']} points, {summary['violations']} violations; in the median the bound "
        f"by covariances is {summary['covariance_looseness']:.3g} times the gap, the sharp one "
        f"{summary['looseness']:.3g} times, and the paper's {summary['tighter']:.3g} times that"
    )
    document, shown = [*found.points, summary], (bound_table(summary), verdict)
    chart = partial(bound_chart, found.points, summary)
    failed = deliver(common, document, *shown, name="bound", chart=chart, found=found)
    if summary["violations"]:
        failed.append(f"{summary['violations']} points lie above a bound")
    return failed


def trace(
    checkpoint: flags.Checkpoint,
    /,
    *,
    prompt: str,
    completion: str | None = None,
    site: str | None = None,
    advantage: float = 1.0,
    max_tokens: int = MAX_TOKENS,
    seed: int = 0,
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32",
    common: flags.CommonFlags = flags.COMMON,
) -> None:
    """Show where the credit of a completion goes: costates by token and site, and what carries it.

    With --out a heat map as HTML, SVG and PNG.
    Example: ``valuegrad trace runs/demo/pretrain/step600 --prompt "label = 'B'" --out runs/trace``

    Args:
        prompt: text that the completion follows.
        completion: text that is credited; left out, one is drawn from the policy.
        site: sites to show, such as embedding,1,final; left out, all of them.
        advantage: of every token of the completion.
        max_tokens: the most that are drawn.
        seed: of the drawing.
        dtype: float32, float64, bfloat16 or float16.
    """
    from rich.text import Text

    from valuegrad.cli.tables import trace_legend, trace_table
    from valuegrad.report.trace_figures import trace_chart
    from valuegrad.report.trace_text import finding
    from valuegrad.theory.trace import trace as costates
    from valuegrad.theory.trace import trace_document

    with one_policy(checkpoint, common, dtype) as (policy, _):
        found = costates(
            policy,
            prompt,
            completion,
            sites=None if site is None else site.split(","),
            advantage=advantage,
            max_tokens=max_tokens,
            seed=seed,
        )
    shown = (Text(finding(found)), trace_table(found), trace_legend(found))
    chart = partial(trace_chart, found)
    deliver(common, trace_document(found), *shown, name="trace", chart=chart)


@contextmanager
def one_policy(
    reference: str, common: flags.Common, dtype: str
) -> Iterator[tuple[Policy, Progress]]:
    """The policy of the one checkpoint that a reference means, and a progress callback."""
    from valuegrad.checkpoints.prefetch import Downloads
    from valuegrad.checkpoints.references import resolve
    from valuegrad.model.loading import check_code

    found = resolve([reference])
    if len(found) > 1:
        names = ", ".join(c.label for c in found[:3])
        got = f"{reference}, {len(found)} checkpoints ({names} …)"
        raise UserError("CHECKPOINT", got, "one checkpoint", "name one of them")
    check_code(found[0], common.trust_remote_code)
    with workplace(common) as (_, resources):
        progress = resources.progress
        with Downloads(resources.cache_limit, progress) as downloads:
            yield resources.load(downloads.get(found[0]), dtype), progress
