"""The command line: flags to calls, results to tables or JSON, errors to exit codes."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from valuegrad.cli.console import hide_bars_of_transformers, print_json, stdout
from valuegrad.cli.messages import as_flag, doubts, wrong_flag
from valuegrad.cli.progress import StderrProgress
from valuegrad.cli.settings import (
    BUDGET,
    COMMON,
    FLAGS,
    SAMPLING,
    TASK,
    BudgetFlags,
    CommonFlags,
    SamplingFlags,
    TaskFlags,
    assignments,
    study_config,
)
from valuegrad.cli.tables import predictor_table, score_table, study_table, table, train_table
from valuegrad.cli.theory import bound_command, verify_command
from valuegrad.cli.trace import trace_command
from valuegrad.errors import UserError, ValuegradError
from valuegrad.files import to_json, write_atomically
from valuegrad.study.config import StudyConfig, load_config
from valuegrad.study.run import Outcome, run_study

Flat = Parameter(name="*")
Checkpoints = Annotated[
    list[str],
    Parameter(
        name="CHECKPOINT",
        help="Folders, quoted globs such as 'runs/step*', or 'repo@revision*' on the hub.",
    ),
]
app = App(
    name="valuegrad",
    help="Which checkpoint will reinforcement learning improve most, by how much, and why.",
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)
app.command(verify_command, name="verify")
app.command(bound_command, name="bound")
app.command(trace_command, name="trace")


@app.command
def study(
    config: Annotated[Path, Parameter(name="CONFIG")],
    /,
    *,
    no_train: bool = False,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", consume_multiple=False)] = (),
    seed: int | None = None,
    dtype: str | None = None,
    common: Annotated[CommonFlags, Flat] = COMMON,
) -> int:
    """Score every checkpoint, run GRPO from each, correlate, and write the report.

    Resumes where it stopped. Example: ``valuegrad study study.toml --out runs/study``

    Args:
        config: TOML file with the checkpoints, the task and the budget.
        no_train: score and rank only.
        set_: a configuration key and its value in TOML, such as budget.seeds=1; may be repeated.
        seed: of the first RL run of each checkpoint.
        dtype: float32 or float64.
        common: shared flags.
    """
    named = {"budget.seed": seed, "dtype": dtype}
    flags = assignments(set_) | {k: v for k, v in named.items() if v is not None}
    loaded = load_config(config, flags)
    folder = common.out or Path("runs") / config.stem
    return _study(loaded, folder, common, ("score",) if no_train else ("score", "train"))


@app.command
def score(
    checkpoints: Checkpoints,
    /,
    *,
    site: str = StudyConfig.site,  # type: ignore[assignment]
    alpha: float = StudyConfig.alpha,
    dtype: str = StudyConfig.dtype,
    task: Annotated[TaskFlags, Flat] = TASK,
    budget: Annotated[BudgetFlags, Flat] = BUDGET,
    sampling: Annotated[SamplingFlags, Flat] = SAMPLING,
    common: Annotated[CommonFlags, Flat] = COMMON,
) -> int:
    """Measure each checkpoint and rank them by predicted gain; no RL is run.

    Example: ``valuegrad score 'runs/demo/pretrain/step*' --task label-copy --learning-rate 1e-4``

    Args:
        checkpoints: what to measure.
        site: where value gradients live: embedding, a block's number, or final.
        alpha: tilt of the headroom.
        dtype: float32 or float64.
        task: the task.
        budget: the RL budget that the prediction is for.
        sampling: the probe step, and rollouts where the task has no closed form.
        common: shared flags.
    """
    from valuegrad.report.files import write_score
    from valuegrad.study.summary import rank, summarise

    config = study_config(checkpoints, task, budget, sampling, site=site, alpha=alpha, dtype=dtype)
    with _folder(common) as folder:
        outcome = _run(config, folder, common, ("score",))
        if common.out is not None:
            write_score(folder, summarise(config, outcome), outcome)
    scores = [m.measurements for m in outcome.measured]
    ranking = rank(scores)
    if common.json:
        print_json(scores)
    else:
        stdout.print(score_table(ranking))
        stdout.print(_verdict(ranking))
        if common.out is not None:
            stdout.print(f"{common.out / 'readiness.parquet'} and readiness.png", soft_wrap=True)
    for row in scores:
        for doubt in doubts(row, task):
            print(f"valuegrad: {doubt}", file=sys.stderr)
    return _finish(outcome)


def _verdict(ranking: Sequence[dict[str, Any]]) -> str:
    """What a ranking says, and no more."""
    best = ranking[0]
    if not (best["probe_step"] or 0) > 0:
        return "No checkpoint shows a signal that RL could follow on this task"
    if len(ranking) == 1:
        return "probe_step: the reward change that noise-free updates bring in half of this budget"
    return f"RL is predicted to help most from [bold]{best['checkpoint']}[/bold]"


@app.command
def train(
    checkpoints: Checkpoints,
    /,
    *,
    dtype: str = StudyConfig.dtype,
    task: Annotated[TaskFlags, Flat] = TASK,
    budget: Annotated[BudgetFlags, Flat] = BUDGET,
    common: Annotated[CommonFlags, Flat] = COMMON,
) -> int:
    """Run GRPO from each checkpoint and print the reward before and after each budget.

    Example: ``valuegrad train runs/demo/pretrain/step400 --task label-copy --updates 10,20``

    Args:
        checkpoints: where to start.
        dtype: float32 or float64.
        task: the task.
        budget: the RL budget and its hyper-parameters.
        common: shared flags.
    """
    config = study_config(checkpoints, task, budget, dtype=dtype)
    with _folder(common) as folder:
        outcome = _run(config, folder, common, ("train",))
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
            "learning_rate": budget.learning_rate,
            "prompts_per_update": budget.prompts_per_update,
            "group_size": budget.group_size,
            "engine": run["engine"],
        }
        for m in outcome.measured
        for run in m.runs
        for updates, after in zip(run["updates"], run["rewards_after"], strict=True)
    ]
    if common.out is not None:
        write_atomically(common.out / "train.json", to_json(rows))
    if common.json:
        print_json(rows)
    else:
        stdout.print(train_table(rows))
        if common.out is not None:
            stdout.print(str(common.out / "train.json"), soft_wrap=True)
    return _finish(outcome)


@app.command
def pretrain(
    folder: Annotated[Path, Parameter(name="DIR")],
    /,
    *,
    preset: str = "demo",
    seed: int = 0,
    common: Annotated[CommonFlags, Flat] = COMMON,
) -> int:
    """Pretrain a small model on the standard library's source, with checkpoints along the way.

    A finished run is left as it is. Example: ``valuegrad pretrain runs/demo/pretrain``

    Args:
        folder: where the checkpoints go.
        preset: demo, arithmetic (demo with problems to learn), small, medium or large (1M to 100M
            parameters).
        seed: of initialisation and data order.
        common: shared flags.
    """
    from valuegrad.demo.pretrain import PRESETS, pretrain

    if preset not in PRESETS:
        raise UserError("--preset", repr(preset), f"one of {', '.join(PRESETS)}", "choose one")
    recipe = PRESETS[preset]
    hide_bars_of_transformers()
    with StderrProgress() as progress:
        written = pretrain(
            folder,
            recipe,
            seed=seed,
            device=common.device,
            progress=lambda step, loss: progress("pretraining", step, recipe.steps),
        )
    if common.json:
        print_json([str(path) for path in written])
    else:
        stdout.print(f"{len(written)} checkpoints: '{folder}/step*'")
    return 0


@app.command
def checkpoints(
    references: Checkpoints, /, *, common: Annotated[CommonFlags, Flat] = COMMON
) -> int:
    """List what references resolve to, in the order in which a study takes them.

    A repository alone lists all its revisions; no weights are downloaded.
    Example: ``valuegrad checkpoints 'allenai/OLMo-2-0425-1B@stage1-step*'``

    Args:
        references: folders, globs, repositories or patterns of their revisions.
        common: shared flags.
    """
    from valuegrad.checkpoints.references import resolve

    names = ("revision", "step", "tokens", "commit")
    rows = [
        {"checkpoint": c.name, **{name: getattr(c, name) for name in names}}
        for c in resolve(references, every_revision=True)
    ]
    if common.out is not None:
        write_atomically(common.out / "checkpoints.json", to_json(rows))
    if common.json:
        print_json(rows)
    else:
        stdout.print(table(("checkpoint", "step", "tokens", "commit"), rows))
    return 0


@app.command
def report(
    folder: Annotated[Path, Parameter(name="STUDY_DIR")],
    /,
    *,
    common: Annotated[CommonFlags, Flat] = COMMON,
) -> int:
    """Make the figures and the page of a study anew from its records alone.

    Example: ``valuegrad report runs/study``

    Args:
        folder: the study folder.
        common: shared flags.
    """
    from valuegrad.report.files import rebuild_report

    document = rebuild_report(folder)
    if common.json:
        print_json(document["paths"])
    else:
        _open_me(document)
    return 0


def _study(
    config: StudyConfig, folder: Path, common: CommonFlags, measurements: tuple[str, ...]
) -> int:
    from valuegrad.report.files import write_study
    from valuegrad.study.summary import summarise

    outcome = _run(config, folder, common, measurements)
    document = write_study(folder, summarise(config, outcome), outcome)
    if common.json:
        print_json(document)
    else:
        stdout.print(study_table(document))
        if document["trained"]:
            reasons = [p["reasons"].get("spearman") for p in document["predictors"].values()]
            none = f"No correlations: {reasons[0]}" if all(reasons) else ""
            stdout.print(none or predictor_table(document))
        _open_me(document)
    return _finish(outcome)


def _run(
    config: StudyConfig, folder: Path, common: CommonFlags, measurements: tuple[str, ...]
) -> Outcome:
    hide_bars_of_transformers()
    with StderrProgress() as progress:
        outcome = run_study(
            config,
            folder,
            measurements=measurements,
            device=common.device,
            cache_limit=common.cache_bytes,
            trust_remote_code=common.trust_remote_code,
            progress=progress,
        )
    if outcome.reused:
        count = "1 result was" if outcome.reused == 1 else f"{outcome.reused} results were"
        print(f"{count} in {folder} already", file=sys.stderr)
    return outcome


@contextmanager
def _folder(common: CommonFlags) -> Iterator[Path]:
    """The folder that keeps the records, or one that goes with the command."""
    if common.out is not None:
        yield common.out
    else:
        with tempfile.TemporaryDirectory(prefix="valuegrad-") as scratch:
            yield Path(scratch)


def _finish(outcome: Outcome) -> int:
    for name, message in outcome.failures.items():
        print(f"valuegrad: {name} failed and was left out: {message}", file=sys.stderr)
    return 1 if outcome.failures else 0


def _open_me(document: dict[str, Any]) -> None:
    page = Path(document["paths"]["report"]).resolve()
    stdout.print(f"Open {page.as_uri()}", soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code: 0 done, 2 wrong request, 1 failed."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: the words after ``valuegrad``.

    Returns:
        The exit code.
    """
    try:
        code = app(
            list(arguments), exit_on_error=False, print_error=False, result_action="return_value"
        )
    except CycloptsError as error:
        print(f"valuegrad: {wrong_flag(error)}", file=sys.stderr)
        return 2
    except UserError as error:
        # A study's settings are keys of its file, whose names stay.
        flags = FLAGS if arguments[0] != "study" else {"device", "dtype"}
        print(f"valuegrad: {as_flag(error, flags)}", file=sys.stderr)
        return 2
    except ValuegradError as error:
        print(f"valuegrad: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("valuegrad: stopped; with --out the same command goes on from here", file=sys.stderr)
        return 1
    return code if isinstance(code, int) else 0
