"""What may hang on what a model writes, run by `isolation` as a program of its own.

A power tower such as 9^(9^(9^9)) keeps sympy busy inside one call into C, where no signal handler
and no other thread gets a turn, so that only ending the process helps. This file imports nothing
of valuegrad: it starts in the time that the libraries of a judge take.
"""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import random
import re
import signal
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

_WORD = re.compile(r"(?<!\\)(?<![A-Za-z])[A-Za-z]{2,}")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mbox)\s*\{[^}]*\}")
_MARKS = ("$", "\\boxed", "\\(", "\\[")


def math_equal(completion: str, answer: str) -> float:
    """1 where a completion's answer equals the right one by math-verify, else 0."""
    from math_verify import verify

    right = _gold(answer)
    return float(verify(right, _mathematics(completion), timeout_seconds=None))


def math_readable(answer: str) -> float:
    """1 where math-verify makes something of an answer, else 0."""
    return float(bool(_gold(answer)))


@cache
def _gold(answer: str) -> list[Any]:
    return _mathematics(answer.rsplit("####", 1)[-1])


def _mathematics(text: str) -> list[Any]:
    """What math-verify reads in a text; a bare expression is put between dollars for it."""
    from math_verify import parse

    lines = text.strip().splitlines()
    bare = lines[-1].strip().rstrip(".") if lines else ""
    if bare and not any(m in text for m in _MARKS) and not _WORD.search(_TEXT.sub("", bare)):
        found = parse(f"${bare}$", parsing_timeout=None)
        if found:
            return list(found)
    return list(parse(text, parsing_timeout=None))


def gym_score(name: str, seed: int, answer: str, entry: dict[str, Any]) -> float:
    """The score of an answer by its reasoning-gym data set; 0 where the verifier fails on it."""
    try:
        return float(_dataset(name, seed, 1).score_answer(answer, entry))
    except Exception:
        # Some verifiers raise on text that is no answer of their form.
        return 0.0


@cache
def _dataset(name: str, seed: int, size: int) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(name, size=size, seed=seed)


def gym_items(name: str, seed: int, size: int, start: int, stop: int) -> list[dict[str, Any]]:
    """Items of a reasoning-gym data set, to be asked for in order.

    Some data sets draw from a set of texts, whose order follows the hash seed of the process; the
    process of this file has a fixed one.
    """
    dataset = _dataset(name, seed, size)
    random.seed(seed + start)  # one data set draws from the global generator
    return [dataset[index] for index in range(start, stop)]


JUDGES: dict[str, Callable[..., Any]] = {
    "math_equal": math_equal,
    "math_readable": math_readable,
    "gym_score": gym_score,
    "gym_items": gym_items,
}


def _serve(seconds: float, module: str) -> None:
    """Answer pickled requests on stdin with pickled replies, until stdin closes."""
    logging.disable()
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get among the replies
    importlib.import_module(module)  # before any clock runs
    while True:
        try:
            judge, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        # Processor time: a busy machine changes no reward. Without a handler the signal ends the
        # process, inside C as well.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            reply: dict[str, Any] = {"value": JUDGES[judge](*arguments)}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        pickle.dump(reply, replies)
        replies.flush()


if __name__ == "__main__":
    _serve(float(sys.argv[1]), sys.argv[2])
