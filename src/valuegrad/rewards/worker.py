"""The process in which rewards run that may hang: killed when they do, and started anew.

A power tower such as 9^(9^(9^9)) keeps sympy busy inside one call into C, where no signal handler
and no other thread gets a turn: only the end of its process stops it. Verifiers are limited in CPU
time per item, so that a busy machine changes no reward; functions of the user's in wall time.
"""

import atexit
import concurrent.futures
import importlib
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures.process import BrokenProcessPool
from importlib.machinery import ModuleSpec
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from valuegrad.errors import RunError

_Function = Callable[..., Any]
_STARTING = threading.Lock()
_inside = False  # whether this is such a process


class EndedError(RunError):
    """The process was ended by the limit, or ended with a code, before it had a result."""


class Worker:
    """One process that calls functions in turn: started when needed, replaced when it has ended.

    It imports a library before any limit counts and drops what that prints; without one, what
    functions print goes to stderr.
    """

    def __init__(self, library: str = "", cpu_seconds: float = 5.0) -> None:
        self.library, self.cpu_seconds = library, cpu_seconds
        self._pool: ProcessPool | None = None
        self._opening = threading.Lock()
        atexit.register(self.close)

    def call(self, function: _Function, *arguments: Any, limit: float | None = None) -> Any:
        """What a function of a module returns, in so many seconds; RunError where it raises."""
        try:
            return self._result(self._schedule(function, arguments, limit))
        except BaseException:
            self.close()
            raise

    def scores(self, verifier: _Function, items: Iterable[tuple[Any, ...]]) -> list[float]:
        """What a verifier returns for each item; 0 where it takes more than `cpu_seconds`."""
        try:
            futures = [self._schedule(verifier, item, None, self.cpu_seconds) for item in items]
            return [self._score(future) for future in futures]
        except BaseException:
            self.close()  # drops the items that wait
            raise

    def close(self) -> None:
        """End the process; the next call starts another."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()  # type: ignore[no-untyped-call]
            pool.join()

    def _schedule(
        self, function: _Function, arguments: tuple[Any, ...], limit: float | None, cpu: float = 0
    ) -> ProcessFuture[bytes]:
        if _inside:
            raise RunError("the process of a reward cannot start another")
        call = (function, pickle.dumps(arguments), cpu)
        with self._opening:
            if self._pool is None or not self._pool.active:
                self.close()
                self._pool = ProcessPool(1, 0, _prepare, (self.library,), _Context())
            return self._pool.schedule(_run, call, timeout=limit)

    def _score(self, future: ProcessFuture[bytes]) -> float:
        try:
            return float(self._result(future))
        except EndedError as error:
            if getattr(error.__cause__, "exitcode", None) == -signal.SIGPROF:
                return 0.0
            raise RunError(f"{self.library} met {error}") from error

    def _result(self, future: ProcessFuture[bytes]) -> Any:
        try:
            while not concurrent.futures.wait([future], timeout=1.0).done:
                if self._pool is None or not self._pool.active:
                    raise BrokenProcessPool
            value, fault = pickle.loads(future.result())
        except TimeoutError as error:
            raise EndedError(f"no result within {error.args[1]:g} s") from error
        except (ProcessExpired, BrokenProcessPool) as error:
            code = getattr(error, "exitcode", None)
            raise EndedError(f"the end of its process (code {code})") from error
        if fault:
            raise RunError(fault)
        return value


class _Process(SpawnProcess):
    """A fresh Python with a fixed hash seed, which does not run the program's own `__main__`."""

    def start(self) -> None:
        with _STARTING:
            main, seed = sys.modules["__main__"], os.environ.get("PYTHONHASHSEED")
            # Under this name multiprocessing leaves out `__main__`, perhaps a script without guard.
            spec, main.__spec__ = main.__spec__, ModuleSpec("__main__", None)
            os.environ["PYTHONHASHSEED"] = "0"
            # Ctrl-C is ours to handle; until the process ignores it, it inherits this.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            try:
                super().start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                main.__spec__ = spec
                del os.environ["PYTHONHASHSEED"]
                if seed is not None:
                    os.environ["PYTHONHASHSEED"] = seed


class _Context(SpawnContext):
    Process = _Process


def _prepare(library: str) -> None:
    """Runs first in the process."""
    global _inside
    _inside = True
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # ends it at once, inside C as well
    threading.Thread(target=_end_with_program, daemon=True).start()
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    if library:
        logging.disable()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        importlib.import_module(library)


def _end_with_program() -> None:
    if program := multiprocessing.parent_process():
        program.join()
    os._exit(1)


def _run(function: _Function, pickled: bytes, cpu: float) -> bytes:
    """Runs in the process: the pickled result of a call, and the text of what it raised."""
    arguments = pickle.loads(pickled)
    signal.setitimer(signal.ITIMER_PROF, cpu)  # without a handler it ends the process
    try:
        return pickle.dumps((function(*arguments), ""))
    except BaseException as error:
        text = f"{function.__name__} failed on {arguments!r:.500}: {type(error).__name__}: {error}"
        return pickle.dumps((None, text))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
