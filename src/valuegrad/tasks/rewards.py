"""Rewards of completions: exact match, or any function with TRL's reward signature."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import math
import numbers
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from valuegrad.errors import UserError

if TYPE_CHECKING:
    from valuegrad.tasks.task import Example


@dataclass(frozen=True)
class Exact:
    """Reward 1 for the answer itself, 0 for everything else."""

    @property
    def identity(self) -> str:
        """What the hash of a task takes of the reward."""
        return "exact"


@dataclass(frozen=True)
class FunctionReward:
    """A user's function ``f(prompts, completions, **columns) -> list[float]``, as TRL calls it.

    Attributes:
        name: ``module:function``.
        function: the function.
    """

    name: str
    function: Callable[..., Sequence[float]]

    @property
    def identity(self) -> str:
        """The name and the source of the function, so that an edited one is measured again."""
        try:
            source = inspect.getsource(self.function)
        except (OSError, TypeError):
            source = repr(self.function)
        return f"{self.name}\n{hashlib.sha256(source.encode()).hexdigest()}"

    def __call__(self, examples: Sequence[Example], completions: Sequence[str]) -> list[float]:
        """Score completions and check what comes back.

        Args:
            examples: the example of each completion.
            completions: the texts.

        Returns:
            One finite reward each.

        Raises:
            UserError: the function raises, or returns the wrong number of values or something
                other than finite numbers.
        """
        columns = {key: [e.columns.get(key) for e in examples] for key in examples[0].columns}
        columns["answer"] = [e.answer for e in examples]
        try:
            values = self.function(
                prompts=[e.prompt for e in examples], completions=list(completions), **columns
            )
        except Exception as error:
            raise UserError(
                f"reward {self.name}",
                f"{type(error).__name__}: {error} (first prompt {examples[0].prompt!r})",
                "a function that scores every completion",
                "mend the function",
            ) from error
        return self._checked(values, examples, completions)

    def _checked(
        self, values: object, examples: Sequence[Example], completions: Sequence[str]
    ) -> list[float]:
        argument, fix = f"reward {self.name}", "return one finite number per completion"
        try:
            rewards = list(values)  # type: ignore[call-overload]
        except TypeError as error:
            got = f"{type(values).__name__} for prompt {examples[0].prompt!r}"
            raise UserError(argument, got, "a list of numbers", fix) from error
        if len(rewards) != len(completions):
            got = f"{len(rewards)} values for {len(completions)} completions"
            got += f", the first of prompt {examples[0].prompt!r}"
            raise UserError(argument, got, "one value per completion", fix)
        for value, example, completion in zip(rewards, examples, completions, strict=True):
            if not isinstance(value, numbers.Real) or not math.isfinite(value):
                got = f"{value!r} for prompt {example.prompt!r}, completion {completion!r}"
                raise UserError(argument, got, "a finite number", fix)
        return [float(value) for value in rewards]


def reward_named(name: str) -> Exact | FunctionReward:
    """The reward that a name stands for.

    Args:
        name: ``exact`` or ``module:function``; a module beside the working folder counts too.

    Returns:
        The reward.

    Raises:
        UserError: no such reward, or the function cannot be imported.

    Example:
        >>> reward_named("exact")
        Exact()
    """
    if name == "exact":
        return Exact()
    module, _, function = name.partition(":")
    if not module or not function:
        raise UserError("reward", repr(name), "exact or module:function", "use one of those")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:
        raise UserError(
            "reward",
            f"{name!r}, which cannot be imported ({type(error).__name__}: {error})",
            "module:function of an importable module",
            "check both names; the working folder is searched too",
        ) from error
    if not callable(found):
        raise UserError("reward", f"{name!r}, a {type(found).__name__}", "a function", "name one")
    return FunctionReward(name, found)
