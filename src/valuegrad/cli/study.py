"""The commands that measure checkpoints and run RL from them: study, score, train and report."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from valuegrad.cli import settings as flags
from valuegrad.cli.console import deliver, progress_on_stderr
from valuegrad.cli.messages import score_warnings
from valuegrad.errors import UserError
from valuegrad.study.config import Precise, StudyConfig, load_config

if TYPE_CHECKING:
    from valuegrad.study.measuring import Resources
    from valuegrad.study.run import Outcome


def study(
    config: Annotated[Path, Parameter(name="CONFIG")],
    /,
    *,
    no_train: bool = False,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", consume_multiple=False)] = (),
    seed: int | None = None,
    dtype: Precise | None = None,
    common: flags.CommonFlags = flags.COMMON,
) -> list[str]:
    """Score every checkpoint, run GRPO from each, correlate, and write the report.

    Resumes where it stopped. Example: ``valuegrad study study.toml --out runs/study``

    Args:
        config: TOML file with the checkpoints, the task and the budget.
        no_train: score and rank only.
        set_: a configuration key and its value in TOML, such as budget.seeds=1; may be repeated.
        seed: of the first RL run of each checkpoint.
        dtype: float32 or float64.
    """
    from valuegrad.cli.tables import predictor_legend, predictor_table, study_table
    from valuegrad.report.files import write_study
    from valuegrad.study.result import study_document
    from valuegrad.study.run import run_study
    from valuegrad.study.summary import summarise

    named = {"budget.seed": seed, "dtype": dtype}
    changes = assignments(set_) | {k: v for k, v in named.items() if v is not None}
    loaded = load_config(config, changes)
    common = replace(common, out=common.out or Path("runs") / config.stem)
    measurements = ("score",) if no_train else ("score", "train")
    with workplace(common) as (out, resources):
        outcome = run_study(loaded, out, measurements=measurements, resources=resources)
    result = summarise(loaded, outcome)
    paths = write_study(out, result, outcome)
    shown: list[Any] = [study_table(result), _rests_on(outcome)]
    if result.trained:
        reasons = [p.reasons.get("spearman") for p in result.predictors.values()]
        found = [predictor_table(result), predictor_legend(result)]
        shown += [f"No correlations: {reasons[0]}"] if all(reasons) else found
    document = {**study_document(result), "paths": paths}
    return deliver(common, document, *shown, paths=[_page(paths)], found=outcome)


def score(
    checkpoints: flags.Checkpoints,
    /,
    *,
    site: str = StudyConfig.site,  # type: ignore[assignment]
    alpha: float = StudyConfig.alpha,
    dtype: Precise = StudyConfig.dtype,
    task: flags.TaskFlags = flags.TASK,
    budget: flags.BudgetFlags = flags.BUDGET,
    sampling: flags.SamplingFlags = flags.SAMPLING,
    common: flags.CommonFlags = flags.COMMON,
) -> list[str]:
    """Measure each checkpoint and rank them by predicted gain; no RL is run.

    Example: ``valuegrad score 'runs/demo/pretrain/step*' --task label-copy --learning-rate 1e-4``

    Args:
        site: where value gradients live: embedding, a block's number, or final.
        alpha: tilt of the headroom.
        dtype: float32 or float64.
    """
    from valuegrad.cli.tables import score_table
    from valuegrad.report.files import write_score
    from valuegrad.study.run import run_study
    from valuegrad.study.summary import rank, summarise

    config = StudyConfig(tuple(checkpoints), task, budget, sampling, site, alpha, dtype)
    with workplace(common) as (folder, resources):
        outcome = run_study(config, folder, measurements=("score",), resources=resources)
    scores = [m.measurements for m in outcome.measured]
    ranking = rank(scores)
    paths = []
    if common.out is not None:
        write_score(common.out, summarise(config, outcome), outcome)
        paths = [f"{common.out / 'readiness.parquet'} and readiness.png"]
    shown = (score_table(ranking), _rests_on(outcome), _verdict(ranking))
    failed = deliver(common, scores, *shown, paths=paths, found=outcome)
    for row in scores:
        for warning in score_warnings(row, task):
            print(f"valuegrad: {warning}", file=sys.stderr)
    return failed


def _verdict(ranking: Sequence[Mapping[str, Any]]) -> str:
    """What a ranking says, and no more."""
    best = ranking[0]
    if not (best["probe_step"] or 0) > 0:
        return "No checkpoint shows a signal that RL could follow on this task"
    if len(ranking) == 1:
        return "probe_step: the reward change that noise-free updates bring in half of this budget"
    return f"RL is predicted to help most from [bold]{best['checkpoint']}[/bold]"


def _rests_on(outcome: Outcome) -> str:
    """Below every table: what its rewards are means over."""
    return "Means over {} of {} held-out prompts.".format(*outcome.prompts)


def train(
    checkpoints: flags.Checkpoints,
    /,
    *,
    dtype: Precise = StudyConfig.dtype,
    task: flags.TaskFlags = flags.TASK,
    budget: flags.BudgetFlags = flags.BUDGET,
    common: flags.CommonFlags = flags.COMMON,
) -> list[str]:
    """Run GRPO from each checkpoint and print the reward before and after each budget.

    Example: ``valuegrad train runs/demo/pretrain/step400 --task label-copy --updates 10,20``

    Args:
        dtype: float32 or float64.
    """
    from valuegrad.cli.tables import train_table
    from valuegrad.study.run import run_study

    config = StudyConfig(tuple(checkpoints), task, budget, dtype=dtype)
    with workplace(common) as (folder, resources):
        outcome = run_study(config, folder, measurements=("train",), resources=resources)
    settings = ("learning_rate", "prompts_per_update", "group_size")
    rows = [
        {
            "checkpoint": m.checkpoint.name,
            "label": m.checkpoint.label,
            "step": m.checkpoint.step,
            "seed": run["seed"],
            "updates": updates,
            "reward_before": run["reward_before"],
            "reward_after": after,
            "gain": after - run["reward_before"],
            **{name: getattr(budget, name) for name in settings},
            "engine": run["engine"],
        }
        for m in outcome.measured
        for run in m.runs
        for updates, after in zip(run["updates"], run["rewards_after"], strict=True)
    ]
    shown = (train_table(rows), _rests_on(outcome))
    return deliver(common, rows, *shown, name="train", found=outcome)


def report(
    folder: Annotated[Path, Parameter(name="STUDY_DIR")],
    /,
    *,
    common: flags.CommonFlags = flags.COMMON,
) -> None:
    """Make the figures and the page of a study anew from its records alone.

    Example: ``valuegrad report runs/study``

    Args:
        folder: the study folder.
    """
    from valuegrad.report.files import rebuild_report

    paths = rebuild_report(folder)
    deliver(common, paths, paths=[_page(paths)], name="report")


def _page(paths: dict[str, Any]) -> str:
    return f"Open {Path(paths['report']).resolve().as_uri()}"


@contextmanager
def workplace(common: flags.Common) -> Iterator[tuple[Path, Resources]]:
    """Where records are kept, for good or as long as the command runs, and what measures them."""
    from valuegrad.study.measuring import Resources

    with TemporaryDirectory(prefix="valuegrad-") as scratch, progress_on_stderr() as progress:
        limit, trust = common.cache_limit, common.trust_remote_code
        yield common.out or Path(scratch), Resources(common.device, limit, trust, progress)


def assignments(pairs: Sequence[str]) -> dict[str, Any]:
    """Configuration keys and their values from ``KEY=VALUE`` texts, values in TOML."""
    result: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise UserError("--set", repr(pair), "KEY=VALUE", "for example --set budget.seeds=1")
        try:
            result[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            # A bare word is a text: quotes are rarely left standing by a shell.
            result[key.strip()] = text
    return result
