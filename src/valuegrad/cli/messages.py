"""What to say of a request: of wrong values, alike for flags and keys of a file, and of doubts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args, get_origin

from cyclopts import CoercionError, CycloptsError, MissingArgumentError, UnusedCliTokensError

from valuegrad.errors import UserError, suggestion
from valuegrad.tasks.settings import TaskSettings

FEW = 32  # training prompts below which a probe step falls short
RARE = 1e-4  # mean reward below which an answer's end is the likelier fault
# What pydantic calls the kinds, by the first word of its error's type.
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text in quotes",
    "tuple": "a list in brackets",
    "dataclass": "a table of keys",
}


def wrong_flag(error: CycloptsError) -> CycloptsError | UserError:
    """Say of a flag's value what was wanted; every other error of the command line stays.

    Args:
        error: from cyclopts.

    Returns:
        What to show.
    """
    if isinstance(error, UnusedCliTokensError):
        rest = " ".join(error.unused_tokens or ())
        return UserError(
            "arguments", repr(rest), "one value after a flag", "join lists with commas: 10,20,25"
        )
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        command = " ".join(("valuegrad", *(error.command_chain or ())))
        name = error.keyword or error.argument.name
        return UserError(name, "nothing", "a value", f"see `{command} --help`")
    if not isinstance(error, CoercionError) or error.token is None or error.msg is not None:
        return error
    name = error.token.keyword or (error.argument.name if error.argument else "argument")
    got = repr(error.token.value)
    if get_origin(error.target_type) is Literal:
        return one_of(name, error.token.value, get_args(error.target_type))
    kind = _KINDS.get(getattr(error.target_type, "__name__", ""))
    return UserError(name, got, kind, "leave it out for the default") if kind else error


def wrong_key(name: str, found: Any, default: object) -> UserError:
    """Say of a key's value in a file what was wanted.

    Args:
        name: of the file and the key.
        found: one of pydantic's errors.
        default: of the key, None where it has none.

    Returns:
        The message.
    """
    if found["type"] == "literal_error":
        choices = found["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        return one_of(name, found["input"], choices)
    kind = _KINDS.get(found["type"].partition("_")[0], found["msg"])
    shown = list(default) if isinstance(default, tuple) else default
    plain = isinstance(default, int | float | str | tuple)
    fix = f"write such a value; the default is {shown!r}" if plain else "write such a value"
    return UserError(name, repr(found["input"]), kind, fix)


def one_of(name: str, got: object, choices: Collection[str]) -> UserError:
    """Refuse a value that is none of some, and name the nearest."""
    fix = suggestion(str(got), choices, "choose one")
    return UserError(name, repr(got), f"one of {', '.join(choices)}", fix)


def as_flag(error: UserError, flags: Collection[str]) -> UserError:
    """Name a setting as it is typed: ``group_size`` is ``--group-size`` on the command line.

    Args:
        error: what is to be shown.
        flags: the settings that are flags there.

    Returns:
        The same error under that name.
    """
    if error.argument not in flags:
        return error
    flag = "--" + error.argument.replace("_", "-")
    return UserError(flag, error.got, error.wanted, error.fix)


def doubts(score: Mapping[str, Any], task: TaskSettings) -> list[str]:
    """What about a score suggests that it is not of what was meant.

    Args:
        score: an object of ``valuegrad score --json``.
        task: the settings of its task.

    Returns:
        A sentence each.
    """
    found = []
    generated = task.name.startswith(("arithmetic", "gym:"))
    own_stop = task.stop is None and not generated and score["estimator"] == "teacher-forced"
    if own_stop and score["reward_before"] < RARE:
        found.append(
            f"{score['label']} hardly ever gives a right answer and ends there; base models rarely "
            r"write their stop token: --stop '\n' may show more"
        )
    if score["probe_prompts"] < min(FEW, score["n_prompts"] // 2):
        found.append(
            f"the probe step of {score['label']} rests on {score['probe_prompts']} training "
            "prompts, which predict too little: hold out fewer, or give more"
        )
    if (score["truncated"] or 0) > 0.5:
        found.append(
            f"{score['truncated']:.0%} of the completions of {score['label']} were cut off at the "
            "most tokens; --stop ends them earlier, --max-tokens later"
        )
    return found
