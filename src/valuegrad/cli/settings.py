"""The flags that commands share, made from the settings themselves so that defaults stand once."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal  # noqa: F401 (annotations of Budget are read here)

from cyclopts import CoercionError, Parameter, Token

from valuegrad.budget import (
    Budget,
    Method,  # noqa: F401 (annotations of Budget are read here)
)
from valuegrad.checkpoints.eviction import parse_size
from valuegrad.errors import UserError
from valuegrad.files import check_folder
from valuegrad.impact.settings import Estimator, Sampling  # noqa: F401 (annotations are read here)
from valuegrad.study.config import StudyConfig
from valuegrad.tasks.settings import TaskSettings


def _numbers(type_: object, tokens: Sequence[Token]) -> tuple[int, ...]:
    parts = [part for token in tokens for part in token.value.split(",")]
    if not all(part.strip().isdecimal() for part in parts):
        raise CoercionError(token=tokens[0], target_type=int)
    return tuple(map(int, parts))


def _texts(type_: object, tokens: Sequence[Token]) -> tuple[str, ...]:
    return tuple(part for token in tokens for part in token.value.split(","))


def _text(type_: object, tokens: Sequence[Token]) -> str:
    # A shell leaves the two characters \\n as they are; whoever types them wants a line break.
    return tokens[0].value.replace("\\n", "\n")


def _shown(value: tuple[object, ...]) -> str:
    return ",".join(map(str, value))


Text = Annotated[str | None, Parameter(converter=_text, n_tokens=1)]


@dataclass(frozen=True)
class BudgetFlags(Budget):  # noqa: D101 (the settings' own docstring, which the help shows)
    __doc__ = Budget.__doc__
    updates: Annotated[
        tuple[int, ...], Parameter(converter=_numbers, n_tokens=1, show_default=_shown)
    ] = Budget.updates


@dataclass(frozen=True)
class TaskFlags(TaskSettings):  # noqa: D101
    __doc__ = TaskSettings.__doc__
    name: Annotated[str, Parameter(name="--task")] = TaskSettings.name
    seed: Annotated[int, Parameter(name="--task-seed")] = TaskSettings.seed
    labels: Annotated[
        tuple[str, ...], Parameter(converter=_texts, n_tokens=1, show_default=_shown)
    ] = TaskSettings.labels
    template: Text = TaskSettings.template
    prompt_template: Text = TaskSettings.prompt_template
    stop: Text = TaskSettings.stop


@dataclass(frozen=True)
class SamplingFlags(Sampling):  # noqa: D101
    __doc__ = Sampling.__doc__


@dataclass(frozen=True)
class CommonFlags:
    """Flags of every command.

    Attributes:
        out: folder for the results; what is finished there is not made again.
        json: print the result as one JSON document on stdout and nothing else there.
        device: cpu, cuda, cuda:N, or auto (CUDA when present).
        cache_limit: size such as 50GB that downloaded checkpoints may take; the oldest go first.
        trust_remote_code: let a model run the code that its checkpoint brings.
    """

    out: Path | None = None
    json: bool = False
    device: str = "cpu"
    cache_limit: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.out is not None:
            check_folder("--out", self.out)

    @property
    def cache_bytes(self) -> int | None:
        """The limit in bytes, None for no limit."""
        return None if self.cache_limit is None else parse_size("--cache-limit", self.cache_limit)


# Settings and the flags that name them, where a study's file has them as keys.
_KEYS = {f.name for owner in (Budget, TaskSettings, Sampling) for f in fields(owner)}
_OTHERS = {
    "site",
    "alpha",
    "dtype",
    "device",
    "task",
    "task_seed",
    "temperature",
    "prompt",
    "completion",
}
FLAGS = frozenset(_OTHERS | _KEYS - {"name"})
BUDGET, TASK, COMMON = BudgetFlags(), TaskFlags(), CommonFlags()
SAMPLING = SamplingFlags()


def study_config(
    checkpoints: list[str],
    task: TaskSettings,
    budget: Budget,
    sampling: Sampling = SAMPLING,
    **rest: Any,
) -> StudyConfig:
    """The study that a command's flags describe."""
    return StudyConfig(
        checkpoints=tuple(checkpoints),
        task=TaskSettings(**asdict(task)),
        budget=Budget(**asdict(budget)),
        sampling=Sampling(**asdict(sampling)),
        **rest,
    )


def assignments(pairs: Sequence[str]) -> dict[str, Any]:
    """Configuration keys and their values from ``KEY=VALUE`` texts, values in TOML.

    Raises:
        UserError: a text without an equals sign.
    """
    result: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise UserError("--set", repr(pair), "KEY=VALUE", "for example --set budget.seeds=1")
        try:
            result[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            # A bare word is a text: quotes are rarely left standing by a shell.
            result[key.strip()] = text
    return result
