"""What the command line says of a wrong request, and of a score that may mislead."""

import re
from collections.abc import Mapping
from typing import Any

from cyclopts import App, CycloptsError, MissingArgumentError, UnusedCliTokensError
from pydantic import ValidationError

from valuegrad.errors import UserError
from valuegrad.settings import explained
from valuegrad.tasks.settings import TaskSettings


def wrong_flag(error: CycloptsError) -> str:
    """What was wrong with a word of the command line, and what was wanted."""
    argument, cause = error.argument, error.__cause__
    if isinstance(error, UnusedCliTokensError):
        rest, fix = " ".join(error.unused_tokens or ()), "join lists with commas: 10,20,25"
        return str(UserError("arguments", repr(rest), "one value after a flag", fix))
    if isinstance(error, MissingArgumentError) and argument is not None:
        command = " ".join(("valuegrad", *(error.command_chain or ())))
        name = error.keyword or argument.name
        return str(UserError(name, "nothing", "a value", f"see `{command} --help`"))
    if isinstance(cause, ValidationError) and argument is not None:
        found = explained(cause, argument.hint)
        fields = {field.keys[-1]: field.name for field in argument.children}
        flag = fields.get(found.argument, argument.name)
        return str(UserError(flag, found.got, found.wanted, found.fix))
    return str(error)


def as_typed(message: str, app: App, command: str) -> str:
    """Name settings as they are typed: ``group_size`` is ``--group-size`` on the command line."""
    if command not in app:
        return message
    shown = {}
    for argument in app[command].assemble_argument_collection():
        if not argument.children:
            flag = argument.name
            shown[flag.lstrip("-").replace("-", "_")] = flag
            if not argument.keys:
                shown[argument.field_info.name] = flag
    setting = r"`(\w+)`|(?:^|(?<=left out: ))(\w+)(?=: got )"
    return re.sub(setting, lambda found: shown.get(found[1] or found[2], found[0]), message)


def score_warnings(score: Mapping[str, Any], task: TaskSettings) -> list[str]:
    """What suggests that a score is not of what was meant; a sentence each."""
    found = []
    open_end = task.stop is None and task.is_file and score["estimator"] == "teacher-forced"
    if open_end and score["reward_before"] < 1e-4:
        found.append(
            f"{score['label']} hardly ever gives a right answer and ends there; base models rarely "
            r"write their stop token: --stop '\n' may show more"
        )
    if score["probe_prompts"] < min(32, score["n_prompts"] // 2):
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
