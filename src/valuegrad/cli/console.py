"""Where commands print: results to stdout, as tables or one JSON document; progress to stderr."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from valuegrad.cli.settings import Common
from valuegrad.files import to_json, write_atomically

PLAIN_SECONDS = 10.0
stdout = Console()


def answer(
    common: Common, document: Any, *shown: RenderableType, paths: Iterable[str] = ()
) -> None:
    """Print a result: as JSON and nothing else, or as what a person reads."""
    if common.json:
        sys.stdout.write(to_json(document))
        return
    for each in shown:
        stdout.print(each)
    for path in paths:
        stdout.print(path, soft_wrap=True)


def deliver(
    common: Common,
    name: str,
    document: Any,
    *shown: RenderableType,
    chart: Callable[[], Any] | None = None,
    paths: Iterable[str] = (),
) -> None:
    """Write a result below --out, with its figure where there is one, and print it."""
    if common.out is not None:
        data = common.out / f"{name}.json"
        write_atomically(data, to_json(document))
        paths = [str(data), *paths]
        if chart is not None:
            from valuegrad.report.page import draw

            paths += draw(chart(), common.out, name)
    answer(common, document, *shown, paths=paths)


@contextmanager
def progress_on_stderr() -> Iterator[Callable[[str, int, int], None]]:
    """Show how far a long command is: bars in a terminal, plain lines with the time left elsewhere.

    What it yields is called with what is being done, the number done and the number in all.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()  # Loading and saving take no time worth a bar.
    console = Console(stderr=True)
    if not console.is_terminal:
        yield plain_lines()
        return
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as bars:

        def draw(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield draw


def plain_lines() -> Callable[[str, int, int], None]:
    """A progress callback that prints a line now and then, and one at the end."""
    started: dict[str, float] = {}
    said = -PLAIN_SECONDS

    def say(what: str, done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        start = started.setdefault(what, now)
        if now - said < PLAIN_SECONDS and done != total:
            return
        said = now
        rest = (now - start) / done * (total - done) if done else 0.0
        left = f", {_minutes(rest)} left" if 0 < done < total else ""
        print(f"{what} {done}/{total}{left}", file=sys.stderr, flush=True)

    return say


def _minutes(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
