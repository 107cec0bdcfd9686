"""Tasks from a JSONL file: one object a line, with a prompt and its answer."""

from __future__ import annotations

import json
from pathlib import Path

from valuegrad.errors import UserError
from valuegrad.tasks.rewards import reward_named
from valuegrad.tasks.task import Example, Task, held_out


def jsonl_task(
    path: str | Path,
    *,
    prompt_field: str = "prompt",
    answer_field: str = "answer",
    reward: str = "exact",
    eval_fraction: float = 0.5,
    prompts: int | None = None,
) -> Task:
    """A task whose prompts and answers are the lines of a JSONL file.

    A prompt's text alone decides its split, so the splits share no prompt and adding lines moves
    none. Of lines with the same prompt the first counts.

    Args:
        path: the file.
        prompt_field: name of the field with the prompt.
        answer_field: name of the field with the answer, written as the policy continues the prompt
            (a leading space included).
        reward: ``exact`` or ``module:function`` with TRL's signature.
        eval_fraction: share of the prompts held out for measuring, in (0, 1).
        prompts: at most so many held-out prompts, the first in the file; None takes all.

    Returns:
        The task.

    Raises:
        UserError: no such file; an empty or malformed line, named by file and line number; a
            missing field; a split without prompts; an unusable reward.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("task", str(path), "label-copy or a JSONL file", "check the path")
    if not 0 < eval_fraction < 1:
        raise UserError("eval_fraction", str(eval_fraction), "between 0 and 1", "use 0.5")
    scored = reward_named(reward)
    examples: dict[str, Example] = {}
    with path.open(encoding="utf-8") as stream:
        try:
            for number, line in enumerate(stream, start=1):
                example = _example(f"{path}:{number}", line, prompt_field, answer_field)
                examples.setdefault(example.prompt, example)
        except UnicodeDecodeError as error:
            raise UserError(str(path), str(error), "UTF-8 text", "convert the file") from error
    sides: dict[bool, list[Example]] = {False: [], True: []}
    for example in examples.values():
        sides[held_out(example.prompt, eval_fraction)].append(example)
    for side, name in ((False, "training"), (True, "held-out")):
        if not sides[side]:
            raise UserError(
                str(path),
                f"{len(examples)} prompts, none of them {name}",
                "prompts on both sides of the split",
                "add lines or change eval_fraction",
            )
    return Task(path.name, tuple(sides[False]), tuple(sides[True][:prompts]), scored)


def _example(place: str, line: str, prompt_field: str, answer_field: str) -> Example:
    if not line.strip():
        raise UserError(place, "an empty line", "one JSON object", "remove the line")
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(place, f"malformed JSON ({error})", "one JSON object", "mend it") from error
    if not isinstance(row, dict):
        raise UserError(place, f"a {type(row).__name__}", "one JSON object", "mend the line")
    for name in (prompt_field, answer_field):
        if not isinstance(row.get(name), str) or not row[name]:
            raise UserError(
                place,
                f"{'no' if name not in row else 'an unusable'} field {name!r}",
                "a text that is not empty",
                f"mend the line, or name the field (it has: {', '.join(map(str, row))})",
            )
    columns = {k: v for k, v in row.items() if k not in (prompt_field, answer_field)}
    return Example(row[prompt_field], row[answer_field], columns)
