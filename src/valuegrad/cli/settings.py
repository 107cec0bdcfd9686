"""The flags of commands: the settings themselves, read from the words of a command line."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from cyclopts import Parameter, Token, default_name_transform
from pydantic import AfterValidator, BeforeValidator, ByteSize, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from valuegrad.budget import Budget
from valuegrad.errors import UserError
from valuegrad.files import check_folder
from valuegrad.impact.settings import Sampling
from valuegrad.tasks.settings import TaskSettings
from valuegrad.theory.settings import BoundSettings


def converted(kind: Any, tokens: Sequence[Token]) -> Any:
    """The value of a flag that belongs to no settings."""
    words = [token.value for token in tokens]
    several = get_origin(kind) in (list, tuple)
    return TypeAdapter(kind).validate_python(words if several else words[0])


def _read(owner: type, words: dict[str, Any]) -> Any:
    """Make settings from words; they refuse a word themselves that is no number."""
    kinds, values = get_type_hints(owner), {}
    for name, word in words.items():
        if isinstance(word, list):
            item, parts = get_args(kinds[name])[0], ",".join(map(str, word)).split(",")
            values[name] = [_value(item, part) for part in parts]
        else:
            # A shell leaves the two characters \n as they are; they stand for a line break.
            lines = name in ("template", "prompt_template", "stop")
            values[name] = _value(kinds[name], word.replace("\\n", "\n") if lines else word)
    return owner(**values)


def _value(kind: Any, word: str) -> Any:
    with suppress(ValidationError):
        return TypeAdapter(kind).validate_python(word)
    return word


def _shown(default: Any) -> Any:
    return ",".join(map(str, default)) if isinstance(default, tuple) else default


def _task_flag(field: str) -> str:
    return default_name_transform({"name": "task", "seed": "task_seed"}.get(field, field))


def _size(text: str | int) -> int:
    with suppress(ValidationError):
        if (size := TypeAdapter(ByteSize).validate_python(text)) > 0:
            return int(size)
    wanted, fix = "a size such as 50GB", "leave it out for no limit"
    raise UserError("cache_limit", repr(text), wanted, fix)


@dataclass(frozen=True)
class Common:
    """Flags of every command.

    Attributes:
        out: folder for the results; study, score, train and bound go on from what is there.
        json: print the result as one JSON document on stdout and nothing else there.
        device: cpu, cuda, cuda:N, or auto (CUDA when present).
        cache_limit: size such as 50GB that downloaded checkpoints may take; the oldest go first.
        trust_remote_code: let a model run the code that its checkpoint brings.
    """

    out: Annotated[Path, AfterValidator(partial(check_folder, "out"))] | None = None
    json: bool = False
    device: str = "cpu"
    cache_limit: Annotated[int, BeforeValidator(_size)] | None = None  # bytes
    trust_remote_code: bool = False


_FLAT = Parameter(name="*", show_default=_shown)
_TASK = Parameter(name="*", show_default=_shown, name_transform=_task_flag)
BudgetFlags = Annotated[Budget, BeforeValidator(partial(_read, Budget)), _FLAT]
TaskFlags = Annotated[TaskSettings, BeforeValidator(partial(_read, TaskSettings)), _TASK]
SamplingFlags = Annotated[Sampling, BeforeValidator(partial(_read, Sampling)), _FLAT]
BoundFlags = Annotated[BoundSettings, BeforeValidator(partial(_read, BoundSettings)), _FLAT]
CommonFlags = Annotated[Common, _FLAT]
COMMON, BUDGET, TASK = Common(), Budget(), TaskSettings()
SAMPLING, BOUND = Sampling(), BoundSettings()
Checkpoint = Annotated[
    str, Parameter(name="CHECKPOINT", help="a folder, or one revision of a repository.")
]
_HELP = "Folders, quoted globs such as 'runs/step*', or 'repo@revision*' on the hub."
Checkpoints = Annotated[list[str], Parameter(name="CHECKPOINT", help=_HELP)]
