"""What every benchmark shares: the machine it ran on, and paired timing."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable

import torch


def machine() -> str:
    """One line about the machine and the versions."""
    name = platform.processor() or platform.machine()
    return (
        f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )


def paired_ratio(
    work: Callable[[], object], reference: Callable[[], object], rounds: int = 5
) -> tuple[float, float, float]:
    """The median over rounds of work / reference, run in turn after a warm-up of each.

    Args:
        work: what is measured.
        reference: what it is measured against.
        rounds: how many pairs.

    Returns:
        The median ratio, and the lowest and the highest.
    """
    work()
    reference()
    ratios = []
    for _ in range(rounds):
        work_seconds, reference_seconds = seconds(work), seconds(reference)
        ratios.append(work_seconds / reference_seconds)
    return statistics.median(ratios), min(ratios), max(ratios)


def ratio(found: tuple[float, float, float]) -> str:
    """A median with the lowest and the highest behind it."""
    median, low, high = found
    return f"{median:.2f} ({low:.2f} … {high:.2f})"


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
