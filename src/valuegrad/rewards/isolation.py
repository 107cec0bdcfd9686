"""Judges in a process of their own, which ends when a completion keeps them too long."""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from valuegrad.errors import RunError

SECONDS = 5.0


class Isolated:
    """The functions of `judges`, called in another process with a time limit per item.

    The process starts with the first call and is started anew after an item that took too long.

    Args:
        module: what the process imports before it takes work.
        seconds: the limit of an item, in processor time; 0 for none.
    """

    def __init__(self, module: str, seconds: float = SECONDS) -> None:
        self.module, self.seconds = module, seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __call__(self, judge: str, *arguments: object) -> Any:
        """What a function says of an item; None where the time ran out.

        Args:
            judge: name of the function.
            arguments: of the function.

        Returns:
            Its value.

        Raises:
            RunError: the function raised, or its process ended for another reason than the limit.
        """
        with self._lock:
            process = self._process or self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                pickle.dump((judge, arguments), process.stdin)
                process.stdin.flush()
                reply = pickle.load(process.stdout)
            except (BrokenPipeError, EOFError):
                reply = None
            except BaseException:
                self.close()  # a reply on its way would be taken for that of the next item
                raise
            if reply is None:
                code = process.wait()
                self._process = None
                if code == -signal.SIGPROF:
                    return None
                raise RunError(f"the process that judges completions ended with code {code}")
        if "error" in reply:
            raise RunError(f"{judge} failed on {arguments!r}: {reply['error']}")
        return reply["value"]

    def close(self) -> None:
        """End the process; the next call starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        judges = Path(__file__).with_name("judges.py")
        environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "0"}
        words = [sys.executable, "-P", str(judges), str(self.seconds), self.module]
        # A session of its own: Ctrl-C is ours to handle, and a closed stdin ends the process.
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        atexit.register(self.close)
        return self._process
