"""Settings that are checked when they are made, alike from Python, a TOML file and flags.

Constraints stand in the annotations of the fields, and what is wrong is a `UserError` that names
the setting. A number is never guessed: ``true``, ``16.9`` and ``"3"`` are no whole numbers.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from valuegrad.errors import UserError, suggestion

T = TypeVar("T")
Natural = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]

CONFIG = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
# What pydantic calls the kinds, by the first word of its error's type.
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "string": "a text in quotes",
    "tuple": "a list in brackets",
    "dataclass": "a table of keys",
}


@dataclass_transform(frozen_default=True)
def settings(owner: type[T]) -> type[T]:
    """Make a class a frozen dataclass that refuses wrong values with a `UserError`."""
    made: Any = dataclass(frozen=True, config=CONFIG)(owner)
    check = made.__init__

    @functools.wraps(check)
    def initialise(self: T, /, *args: Any, **kwargs: Any) -> None:
        try:
            check(self, *args, **kwargs)
        except ValidationError as error:
            raise explained(error, made) from error

    made.__init__ = initialise
    return made  # type: ignore[no-any-return]


def section(owner: Callable[..., object]) -> BeforeValidator:
    """Let a field of settings be given as a table of their keys."""
    return BeforeValidator(lambda given: owner(**given) if isinstance(given, Mapping) else given)


def explained(error: ValidationError, owner: object = None) -> UserError:
    """The first thing that pydantic found wrong with settings, or with a single value."""
    # A misspelt key also leaves the right one missing: speak of the misspelling.
    faults = error.errors(include_url=False)
    fault = min(faults, key=lambda each: each["type"] != "unexpected_keyword_argument")
    fields: dict[str, FieldInfo] = getattr(owner, "__pydantic_fields__", {})
    place = fault["loc"][0] if fields and fault["loc"] else ""
    name = list(fields)[place] if isinstance(place, int) else place
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, UserError):  # from a validator, or from the settings of a section
        name = ".".join(filter(None, dict.fromkeys((name, cause.argument))))
        return UserError(name, cause.got, cause.wanted, cause.fix)
    return UserError(name, *_wording(fault, name, fields))


def _wording(fault: Any, name: str, fields: Mapping[str, FieldInfo]) -> tuple[str, str, str]:
    """What a setting was, what was wanted, and the fix."""
    got, limits = repr(fault["input"]), fault.get("ctx", {})
    match fault["type"]:
        case "unexpected_keyword_argument":
            fix = suggestion(name, fields, f"known keys: {', '.join(fields)}")
            return "an unknown key", "a key that valuegrad knows", fix
        case "missing":
            return "nothing", "a value", "add the key"
        case "too_short":
            return "an empty list", "at least one", "name one"
        case "literal_error":
            choices = re.findall("'([^']*)'", limits["expected"])
            fix = suggestion(str(fault["input"]), choices, "choose one")
            return got, f"one of {', '.join(choices)}", fix
        case "greater_than_equal":
            return str(fault["input"]), f"{limits['ge']:g} or more", "raise it"
        case "greater_than":
            return str(fault["input"]), f"a number above {limits['gt']:g}", "raise it"
    wanted = _KINDS.get(fault["type"].partition("_")[0], fault["msg"])
    default = fields[name].default if name in fields else None
    shown = list(default) if isinstance(default, tuple) else default
    plain = isinstance(default, int | float | str | tuple)
    fix = f"write such a value; the default is {shown!r}" if plain else "write such a value"
    return got, wanted, fix
