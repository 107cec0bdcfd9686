"""A time limit for functions of the user's, which may hang and need not be picklable."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import inspect
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any


class TimeLimitPassed(Exception):  # noqa: N818 (not an error of the function's)
    """The function did not return in time."""


class NeedsMainThread(Exception):  # noqa: N818
    """The function keeps time with signals, which Python allows in the main thread only."""

    def __init__(self) -> None:
        super().__init__("a signal handler, which Python sets in the main thread only")


def call(function: Callable[[], object]) -> object:
    """Call a function, run an awaitable that it returns, and keep its prints out of stdout.

    Args:
        function: takes no arguments.

    Returns:
        What it returned.

    Example:
        >>> async def two():
        ...     return 2
        >>> call(two)
        2
    """
    with contextlib.redirect_stdout(sys.stderr):
        return _finish(function())


def call_within(seconds: float, function: Callable[[], object]) -> object:
    """As `call`, but waits at most so long.

    A call that takes too long is abandoned in a daemon thread, so the program goes on and can exit.

    Args:
        seconds: the limit.
        function: takes no arguments.

    Returns:
        What the function returned.

    Raises:
        TimeLimitPassed: the limit passed.
        NeedsMainThread: the function asked for a signal handler, whatever came of it; as its result
            is no good, it wants to be run with `call`.

    Example:
        >>> call_within(1.0, lambda: 2)
        2
    """
    outcome: queue.SimpleQueue[tuple[object, BaseException | None]] = queue.SimpleQueue()
    thread = threading.Thread(target=_run, args=(function, outcome), daemon=True)
    with contextlib.redirect_stdout(sys.stderr), _signals_of(thread) as asked:
        thread.start()
        try:
            value, error = outcome.get(timeout=seconds)
        except queue.Empty:
            _interrupt(thread)
            raise TimeLimitPassed(f"no result within {seconds:g} s") from None
        except BaseException:
            _interrupt(thread)
            raise
    if asked:
        raise NeedsMainThread
    if error is not None:
        raise error
    return value


def _run(
    function: Callable[[], object],
    outcome: queue.SimpleQueue[tuple[object, BaseException | None]],
) -> None:
    try:
        outcome.put((_finish(function()), None))
    except Exception as error:
        outcome.put((None, error))
    except BaseException as error:
        # A function that exits has not scored anything either.
        outcome.put((None, RuntimeError(f"{type(error).__name__}: {error}")))


def _finish(value: object) -> object:
    if not inspect.isawaitable(value):
        return value

    async def result() -> object:
        return await value

    return asyncio.run(result())


@contextlib.contextmanager
def _signals_of(thread: threading.Thread) -> Iterator[list[object]]:
    """Notes the signal handlers that a thread asks for: a function may hide that it got none."""
    original, asked = signal.signal, []

    def noting(number: Any, handler: Any) -> Any:
        if threading.current_thread() is thread:
            asked.append(number)
        return original(number, handler)

    signal.signal = noting  # type: ignore[assignment]
    try:
        yield asked
    finally:
        signal.signal = original


def _interrupt(thread: threading.Thread) -> None:
    # A loop in Python ends here and stops taking time from the rest; a call into C goes on.
    identity = ctypes.c_ulong(thread.ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(identity, ctypes.py_object(SystemExit))
