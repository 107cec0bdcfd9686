"""Where commands print: results to stdout, as tables or one JSON document; progress to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TimeRemainingColumn

from valuegrad.cli.settings import Common
from valuegrad.files import to_json, write_atomically

if TYPE_CHECKING:
    from valuegrad.study.bounds import Bounds
    from valuegrad.study.run import Outcome

PLAIN_SECONDS = 10.0
stdout = Console()


def deliver(
    common: Common,
    document: Any,
    *shown: RenderableType,
    name: str | None = None,
    chart: Callable[[], Any] | None = None,
    paths: Iterable[str] = (),
    found: Outcome | Bounds | None = None,
) -> list[str]:
    """Write a named result and its chart below --out, print it, and say what failed."""
    if name is not None and common.out is not None:
        data = common.out / f"{name}.json"
        write_atomically(data, to_json(document))
        paths = [str(data), *paths]
        if chart is not None:
            from valuegrad.report.page import draw

            paths += draw(chart(), common.out, name)
    if common.json:
        sys.stdout.write(to_json(document))
    else:
        for each in shown:
            stdout.print(each)
        for path in paths:
            stdout.print(path, soft_wrap=True)
    if found is None:
        return []
    if found.reused:
        results = "1 result was" if found.reused == 1 else f"{found.reused} results were"
        print(f"{results} in {common.out} already", file=sys.stderr)
    return [f"{each} failed and was left out: {why}" for each, why in found.failures.items()]


@contextmanager
def progress_on_stderr() -> Iterator[Callable[[str, int, int], None]]:
    """Yield what shows progress of (what, number done, number in all): bars in a terminal."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # Loading and saving take no time worth a bar.
    console = Console(stderr=True)
    if not console.is_terminal:
        yield plain_lines()
        return
    count = "{task.completed:.0f}/{task.total:.0f}"
    columns = ("{task.description:<12}", BarColumn(), count, TimeRemainingColumn(), "left")
    with Progress(*columns, console=console) as bars:
        bar = cache(lambda what: bars.add_task(what, total=1))
        yield lambda what, done, total: bars.update(bar(what), completed=done, total=total)


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
        left = ""
        if 0 < done < total:
            minutes, seconds = divmod(round((now - start) / done * (total - done)), 60)
            left = f", {minutes} min {seconds} s left" if minutes else f", {seconds} s left"
        print(f"{what} {done}/{total}{left}", file=sys.stderr, flush=True)

    return say
