"""Any function with TRL's reward signature as a reward."""

import asyncio
import contextlib
import inspect
import numbers
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from valuegrad.errors import UserError, ValuegradError
from valuegrad.rewards.example import Example
from valuegrad.rewards.source import function_sha256

# What TRL passes beside the columns, some of it in their place.
RESERVED = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
# Squares of rewards stay finite in the single precision of a trainer.
LARGEST = 1e15


@dataclass(frozen=True)
class FunctionReward:
    """A function ``f(prompts, completions, **columns) -> list[float]``, called as TRL calls it.

    It gets the columns of the rows by name, ``answer`` among them, which is a row's right answer
    unless a column is called so, and of what TRL adds: the
    ``completion_ids`` where they are known; ``log_extra`` and ``log_metric``, which do nothing; and
    ``trainer_state``, which is None, because no trainer runs while a checkpoint is measured. A
    function without ``**`` gets those of them that it names. It may be ``async``. None in its list,
    which leaves a completion to TRL's other rewards, is an error: here there is one reward.

    It runs in this process and without a time limit, so that closures and functions of a notebook
    work; one that hangs holds the program up. A task's reward ``module:function`` runs in a process
    of its own, under a limit.

    Attributes:
        name: of the reward, for errors and hashes.
        function: the function.
        binary: whether every reward is known to be 0 or 1.
        version: what the hash of a task takes of the function. None takes the file of its module
            and of the user's modules that this imports, or of a notebook's function what it names;
            and the values that it was made with. What it reads as it runs, such as files or the
            network, is not seen: name that here.

    Raises:
        UserError: when called, if the function raises, or returns the wrong number of values or
            something other than finite numbers up to 1e15 in size; if a column is called as one of
            the arguments that TRL adds.

    Example:
        >>> length = FunctionReward("length", lambda completions, **_: map(len, completions))
        >>> length([Example("1+1=", "2")], ["two"])
        [3.0]
    """

    name: str
    function: Callable[..., Any]
    binary: bool = False
    version: str | None = None

    @property
    def identity(self) -> str:
        """What the hash of a task takes of the reward: an edited function is measured again."""
        return f"{self.name}\n{self.version or function_sha256(self.function)}"

    def __call__(
        self,
        examples: Sequence[Example],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]] | None = None,
    ) -> list[float]:
        """One finite reward for each completion, of its example and, where known, its tokens."""
        names = dict.fromkeys(name for example in examples for name in example.columns)
        for name in names:
            if name in RESERVED:
                wanted, fix = "columns that TRL does not overwrite", "rename the field"
                raise UserError(f"reward {self.name}", f"a field {name!r}", wanted, fix)
        arguments = {
            **_extras(self.function, completion_ids),
            **{name: [e.columns.get(name) for e in examples] for name in names},
            "prompts": [e.prompt for e in examples],
            "completions": list(completions),
        }
        arguments.setdefault("answer", [e.answer for e in examples])
        try:
            with contextlib.redirect_stdout(sys.stderr):
                values = _awaited(self.function(**arguments))
                values = list(values) if isinstance(values, Iterator) else values
        except ValuegradError:
            raise
        except (Exception, SystemExit) as error:
            place = f"{_place(error, self.function)} (first prompt {examples[0].prompt!r})"
            got = f"{type(error).__name__}: {error}{place}"
            wanted = "a function that scores every completion"
            raise UserError(f"reward {self.name}", got, wanted, "mend the function") from error
        return _checked(f"reward {self.name}", values, examples, completions)


def _extras(
    function: Callable[..., Any], completion_ids: Sequence[Sequence[int]] | None
) -> dict[str, Any]:
    """What TRL adds to the columns, as far as a function takes it."""
    extras: dict[str, Any] = dict.fromkeys(("log_extra", "log_metric"), lambda *_, **__: None)
    extras["trainer_state"] = None
    if completion_ids is not None:
        extras["completion_ids"] = [list(ids) for ids in completion_ids]
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return {}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return extras
    return {p.name: extras[p.name] for p in parameters if p.name in extras}


def _awaited(value: Any) -> Any:
    if not inspect.isawaitable(value):
        return value
    whole = asyncio.wait_for(value, timeout=None)  # a coroutine, as `asyncio.run` wants
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(whole)
    with ThreadPoolExecutor(1) as thread:  # a notebook's own loop runs in this one
        return thread.submit(asyncio.run, whole).result()


def _place(error: BaseException, function: Callable[..., Any]) -> str:
    """File and line of the function's own source in which an error came about."""
    source = getattr(getattr(function, "__code__", None), "co_filename", None)
    own = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == source]
    return f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""


def _checked(
    argument: str, values: Any, examples: Sequence[Example], completions: Sequence[str]
) -> list[float]:
    fix = "return one finite number per completion"
    try:
        if isinstance(values, Mapping | Set):
            raise TypeError  # whose order is no completion's
        # Scalars of numpy and torch become Python's.
        rewards = [v.item() if hasattr(v, "item") else v for v in values]
    except (TypeError, ValueError, RuntimeError) as error:
        got = f"{type(values).__name__} for prompt {examples[0].prompt!r}"
        raise UserError(argument, got, "a list of numbers", fix) from error
    if len(rewards) != len(completions):
        got = f"{len(rewards)} values for {len(completions)} completions"
        got += f", the first of prompt {examples[0].prompt!r}"
        raise UserError(argument, got, "one value per completion", fix)
    for value, example, completion in zip(rewards, examples, completions, strict=True):
        number: Any = value if isinstance(value, numbers.Real) else None
        if number is None or not -LARGEST <= number <= LARGEST:
            huge = isinstance(value, int) and value.bit_length() > 100  # Python may not print it
            shown = f"an integer of {value.bit_length()} bits" if huge else repr(value)
            got = f"{shown} for prompt {example.prompt!r}, completion {completion!r}"
            if value is None:
                fix = "return 0 where the function does not apply: no other reward takes its place"
            wanted = f"a finite number, at most {LARGEST:g} in size"
            raise UserError(argument, got, wanted, fix)
    return [float(value) for value in rewards]
