"""Tasks from a JSONL file: one object a line, with a prompt and its answer."""

import json
import math
from collections.abc import Callable
from pathlib import Path

from valuegrad.errors import UserError
from valuegrad.rewards import mathematics, number
from valuegrad.rewards.example import Example
from valuegrad.rewards.named import TIMEOUT, reward_named
from valuegrad.tasks.task import Task, apply_template, check_counts, check_template, split

# What the answers must hold for a reward of valuegrad's own to compare with.
_READS: dict[str, tuple[Callable[[str], bool], str]] = {
    "number": (number.readable, "a number, clearly one and all of what is asked for,"),
    "math": (mathematics.readable, "an expression that math-verify reads"),
}


def jsonl_task(
    path: str | Path,
    *,
    prompt_field: str = "prompt",
    answer_field: str = "answer",
    reward: str = "exact",
    eval_fraction: float = 0.5,
    prompts: int | None = None,
    prompt_template: str | None = None,
    reward_timeout: float = TIMEOUT,
) -> Task:
    """A task whose prompts and answers are the lines of a JSONL file.

    A prompt's text alone decides its split, so the splits share no prompt and adding lines moves
    none. Of lines with the same prompt the first counts.

    Args:
        path: the file.
        prompt_field: name of the field with the prompt.
        answer_field: name of the field with the answer, a text or a number. The reward ``exact``
            wants it written as the policy continues the prompt (a leading space included); the
            others take it as a reference.
        reward: ``exact``, ``number``, ``math`` or ``module:function`` with TRL's signature. A
            function gets every field of a row by its own name, and the answer as ``answer`` too.
        eval_fraction: share of the prompts held out for measuring, in (0, 1).
        prompts: at most so many held-out prompts, the first in the file; None takes all.
        prompt_template: a format string with ``{prompt}``, where the field's text goes; it moves no
            prompt to the other split.
        reward_timeout: the most seconds that a call of a ``module:function`` may take.

    Returns:
        The task.

    Raises:
        UserError: no such file; an empty or malformed line, named by file and line number; a
            missing field; an answer that the reward cannot read; a split without prompts; an
            unusable reward or template.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("task", str(path), "a JSONL file", "check the path")
    if not 0 < eval_fraction < 1:
        raise UserError("eval_fraction", str(eval_fraction), "between 0 and 1", "use 0.5")
    check_template("prompt_template", prompt_template, "prompt")
    if prompts is not None:
        check_counts(prompts=prompts)
    scored = reward_named(reward, reward_timeout)
    names = (prompt_field, answer_field)
    # Under their usual names these two reach a function anyway.
    kept = tuple(n for n in names if n not in ("prompt", "answer") and ":" in reward)
    examples: dict[str, Example] = {}
    with path.open(encoding="utf-8") as stream:
        try:
            for at, line in enumerate(stream, start=1):
                place = f"{path}:{at}"
                example = _example(place, line, names, kept)
                if example.prompt not in examples:
                    reads, wanted = _READS.get(reward, (bool, "text"))
                    if not reads(example.answer):
                        got = f"the answer {example.answer[-60:]!r}"
                        fix = "mend the line, or name the field by `answer_field`"
                        raise UserError(place, got, f"{wanted} in it", fix)
                    examples[example.prompt] = example
        except UnicodeDecodeError as error:
            raise UserError(str(path), str(error), "UTF-8 text", "convert the file") from error
    sides = split(examples.values(), eval_fraction)
    for name, side in zip(("training", "held-out"), sides, strict=True):
        if not side:
            got = f"{len(examples)} different prompts, none of them {name}"
            fix = "add lines or change `eval_fraction`"
            raise UserError(str(path), got, "prompts on both sides of the split", fix)
    train, evaluation = (apply_template(prompt_template, side) for side in sides)
    return Task(path.name, train, evaluation[:prompts], scored)


def _example(place: str, line: str, names: tuple[str, str], kept: tuple[str, ...]) -> Example:
    if not line.strip():
        raise UserError(place, "an empty line", "one JSON object", "remove the line")
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(place, f"malformed JSON ({error})", "one JSON object", "mend it") from error
    if not isinstance(row, dict):
        raise UserError(place, f"a {type(row).__name__}", "one JSON object", "mend the line")
    prompt, answer = (row.get(name, "") for name in names)
    if isinstance(answer, int | float) and not isinstance(answer, bool) and math.isfinite(answer):
        answer = str(answer)
    for name, text, kind in zip(names, (prompt, answer), ("text", "text or number"), strict=True):
        if not isinstance(text, str) or not text:
            got = f"{'no' if name not in row else 'an unusable'} field {name!r}"
            fix = f"mend the line, or name the field (it has: {', '.join(map(str, row))})"
            raise UserError(place, got, f"a {kind} that is not empty", fix)
    # A function written for TRL asks for the fields by the names that they have in the file.
    columns = {k: v for k, v in row.items() if k not in names or k in kept}
    return Example(prompt, answer, columns)
