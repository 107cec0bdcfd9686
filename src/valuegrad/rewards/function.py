"""Any function with TRL's reward signature as a reward."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import math
import numbers
import re
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from valuegrad.errors import UserError, ValuegradError
from valuegrad.rewards.example import Example
from valuegrad.rewards.time_limit import NeedsMainThread, TimeLimitPassed, call, call_within

TIMEOUT = 60.0


@dataclass(frozen=True)
class FunctionReward:
    """A function ``f(prompts, completions, **columns) -> list[float]``, called as TRL calls it.

    It gets the columns of the rows by name, ``answer`` among them, and of what TRL adds: the
    ``completion_ids`` where they are known; ``log_extra`` and ``log_metric``, which do nothing; and
    ``trainer_state``, which is None, because no trainer runs while a checkpoint is measured. A
    function without ``**`` gets those of them that it names. It may be ``async``. None in its list,
    which leaves a completion to TRL's other rewards, is an error: here there is one reward.

    Attributes:
        name: ``module:function``, or the name of a reward of valuegrad's own.
        function: the function.
        binary: whether every reward is known to be 0 or 1.
        timeout: the most seconds that a call may take; None for no limit.
    """

    name: str
    function: Callable[..., Any]
    binary: bool = False
    timeout: float | None = TIMEOUT
    _own_limits: list[bool] = field(default_factory=list, repr=False, compare=False)

    @property
    def identity(self) -> str:
        """The name and the source of the function, so that an edited one is measured again."""
        try:
            source = inspect.getsource(self.function)
        except (OSError, TypeError):
            # An address in memory differs from run to run.
            source = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(self.function))
            with contextlib.suppress(OSError, TypeError):
                source += inspect.getsource(type(self.function))
        return f"{self.name}\n{hashlib.sha256(source.encode()).hexdigest()}"

    def __call__(
        self,
        examples: Sequence[Example],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]] | None = None,
    ) -> list[float]:
        """Score completions and check what comes back.

        Args:
            examples: the example of each completion.
            completions: the texts.
            completion_ids: their token ids, for functions that ask for them.

        Returns:
            One finite reward each.

        Raises:
            UserError: the function raises, takes longer than the time limit, or returns the wrong
                number of values or something other than finite numbers.
        """
        arguments = self._arguments(examples, completions, completion_ids)
        argument, first = f"reward {self.name}", f"(first prompt {examples[0].prompt!r})"
        try:
            values = self._call(lambda: self.function(**arguments))
        except ValuegradError:
            raise
        except TimeLimitPassed as error:
            raise UserError(
                argument,
                f"{error} {first}",
                "a function that scores every completion in time",
                "mend the function, or raise --reward-timeout",
            ) from error
        except Exception as error:
            raise UserError(
                argument,
                f"{type(error).__name__}: {error}{_place(error, self.function)} {first}",
                "a function that scores every completion",
                "mend the function",
            ) from error
        return self._checked(values, examples, completions)

    def _call(self, function: Callable[[], object]) -> object:
        main = threading.current_thread() is threading.main_thread()
        if self.timeout is None or (self._own_limits and main):
            return call(function)
        try:
            return call_within(self.timeout, function)
        except NeedsMainThread:
            if not main:
                raise
            # It keeps time itself, as math-verify does: TRL, too, would call it in this thread.
            self._own_limits.append(True)
            return call(function)

    def _arguments(
        self,
        examples: Sequence[Example],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]] | None,
    ) -> dict[str, object]:
        names = dict.fromkeys(key for example in examples for key in example.columns)
        extras: dict[str, object] = {
            "trainer_state": None,
            "log_extra": _ignore,
            "log_metric": _ignore,
        }
        if completion_ids is not None:
            extras["completion_ids"] = [list(ids) for ids in completion_ids]
        return {
            **{name: extras[name] for name in extras if _accepts(self.function, name)},
            **{name: [e.columns.get(name) for e in examples] for name in names},
            "answer": [e.answer for e in examples],
            "prompts": [e.prompt for e in examples],
            "completions": list(completions),
        }

    def _checked(
        self, values: object, examples: Sequence[Example], completions: Sequence[str]
    ) -> list[float]:
        argument, fix = f"reward {self.name}", "return one finite number per completion"
        try:
            rewards = list(values)  # type: ignore[call-overload]
            # Scalars of numpy and torch become Python's.
            rewards = [v.item() if hasattr(v, "item") else v for v in rewards]
        except (TypeError, ValueError, RuntimeError) as error:
            got = f"{type(values).__name__} for prompt {examples[0].prompt!r}"
            raise UserError(argument, got, "a list of numbers", fix) from error
        if len(rewards) != len(completions):
            got = f"{len(rewards)} values for {len(completions)} completions"
            got += f", the first of prompt {examples[0].prompt!r}"
            raise UserError(argument, got, "one value per completion", fix)
        for value, example, completion in zip(rewards, examples, completions, strict=True):
            if not isinstance(value, numbers.Real) or not math.isfinite(value):
                got = f"{value!r} for prompt {example.prompt!r}, completion {completion!r}"
                raise UserError(argument, got, "a finite number", _NONE if value is None else fix)
        return [float(value) for value in rewards]


_NONE = "return 0 where the function does not apply: there is no other reward to take its place"


def _ignore(*_: object, **__: object) -> None:
    pass


def _place(error: Exception, function: Callable[..., Any]) -> str:
    """File and line of the function's own source in which an error came about."""
    source = getattr(getattr(function, "__code__", None), "co_filename", None)
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename == source]
    return f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""


def _accepts(function: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
