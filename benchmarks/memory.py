"""Peak memory of a piece of work on the CPU, in a process of its own (Linux)."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path


def peak_memory(prepare: Callable[..., Callable[[], object]], *given: object) -> int:
    """How far the resident memory rises above what it was when the work began.

    Args:
        prepare: run first in a new process; returns the work.
        given: its arguments.

    Returns:
        Bytes.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_measure, args=(there, prepare, given))
    process.start()
    there.close()
    found: int = here.recv()
    process.join()
    return found


def _measure(
    pipe: Connection, prepare: Callable[..., Callable[[], object]], given: tuple[object, ...]
) -> None:
    work = prepare(*given)
    # Writing 5 sets the high-water mark back to what is resident now.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    kept = work()
    pipe.send(_status("VmHWM") - before)
    del kept


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this system does not report {name}")
