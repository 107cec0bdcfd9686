"""Tasks from a JSONL file: one object a line, with a prompt and its answer."""

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from valuegrad.errors import UserError
from valuegrad.rewards import mathematics, number
from valuegrad.rewards.example import Example
from valuegrad.rewards.function import RESERVED
from valuegrad.rewards.named import TIMEOUT, reward_named
from valuegrad.tasks.task import (
    Task,
    apply_template,
    check_counts,
    check_template,
    check_text,
    sample,
    split,
)

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
    none. Of lines with the same prompt the first counts. A number is an answer as it is spelt.

    Args:
        path: the file.
        prompt_field: name of the field with the prompt.
        answer_field: name of the field with the answer, a text or a number. The reward ``exact``
            wants it written as the policy continues the prompt (a leading space included); the
            others take it as a reference.
        reward: ``exact``, ``number``, ``math`` or ``module:function`` with TRL's signature. A
            function gets every field of a row by its own name, but for ``prompt`` and
            ``completion``, as TRL hands them over, and the answer's text as ``answer`` where the
            file has no such field.
        eval_fraction: share of the prompts held out for measuring, in (0, 1).
        prompts: at most so many held-out prompts, drawn evenly over the file by their texts; None
            takes all. The task's `available` is how many there are.
        prompt_template: a format string with ``{prompt}``, where the field's text goes; it moves no
            prompt to the other split.
        reward_timeout: the most seconds that a call of a ``module:function`` may take.

    Returns:
        The task.

    Raises:
        UserError: no such file; an empty or malformed line, named by file and line number; a
            missing field or one that is there twice; half a surrogate pair or a NUL character; an
            answer that the reward cannot read; whole numbers as floats where the reward is exact; a
            split without prompts; an unusable reward or template.
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
    examples: dict[str, Example] = {}
    with path.open("rb") as stream:
        for at, line in enumerate(stream, start=1):
            place = f"{path}:{at}"
            example = _example(place, line, names)
            if example.prompt not in examples:
                reads, wanted = _READS.get(reward, (bool, "text"))
                if not reads(example.answer):
                    got = f"the answer {example.answer[-60:]!r}"
                    fix = "mend the line, or name the field by `answer_field`"
                    raise UserError(place, got, f"{wanted} in it", fix)
                examples[example.prompt] = example
    if reward == "exact":
        _check_whole(path, examples.values(), answer_field)
    found = [replace(e, columns=columns) for e, columns in _columns(examples, names, reward)]
    train, held_out = split(found, eval_fraction)
    for name, side in (("training", train), ("held-out", held_out)):
        if not side:
            got = f"{len(examples)} different prompts, none of them {name}"
            fix = "add lines or change `eval_fraction`"
            raise UserError(str(path), got, "prompts on both sides of the split", fix)
    drawn = sample(held_out, prompts)
    sides = [apply_template(prompt_template, side) for side in (train, drawn)]
    return Task(path.name, sides[0], sides[1], scored, available=len(held_out))


def _example(place: str, line: bytes, names: tuple[str, str]) -> Example:
    """The example of a line, with all of its fields as columns."""
    try:
        text = line.decode("utf-8-sig" if place.endswith(":1") else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(place, str(error), "UTF-8 text", "convert the file") from error
    if not text.strip():
        raise UserError(place, "an empty line", "one JSON object", "remove the line")
    try:
        row = json.loads(text, object_pairs_hook=partial(_object, place))
    except json.JSONDecodeError as error:
        array = "a JSON array over several lines, or " if text.lstrip()[0] == "[" else ""
        got = f"{array}malformed JSON ({error})"
        raise UserError(place, got, "one JSON object", "mend it") from error
    except (ValueError, RecursionError) as error:
        got = f"JSON that Python cannot read ({error})"
        fix = "write a number of so many digits as a text"
        raise UserError(place, got, "one JSON object", fix) from error
    if not isinstance(row, dict):
        fix = "write one object a line, without brackets around them"
        raise UserError(place, f"a {type(row).__name__}", "one JSON object", fix)
    check_text(place, row)
    prompt, answer = (row.get(name, "") for name in names)
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        # As it is spelt: 3.10 is not 3.1 to a policy. What is no number, such as NaN, stays.
        finite = isinstance(answer, int) or math.isfinite(answer)
        spelt = json.loads(text, parse_float=str, parse_int=str)[names[1]]
        answer = spelt if finite else answer
    for name, found, kind in zip(names, (prompt, answer), ("text", "text or number"), strict=True):
        if not isinstance(found, str) or not found:
            got = f"{'no' if name not in row else 'an unusable'} field {name!r}"
            fix = f"mend the line, or name the field (it has: {', '.join(map(str, row))})"
            raise UserError(place, got, f"a {kind} that is not empty", fix)
    return Example(prompt, str(answer), row)


def _object(place: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(place, f"the field {twice!r} twice", "each field once", "remove one")
    return row


def _columns(
    examples: Mapping[str, Example], names: tuple[str, str], reward: str
) -> Iterator[tuple[Example, dict[str, object]]]:
    """What a reward gets beside prompts and answers, as TRL hands it over; None where it is not."""
    fields = dict.fromkeys(name for e in examples.values() for name in e.columns)
    # valuegrad's own rewards read answers alone. TRL hands these two over in its own form.
    left_out = ("prompt", "completion") if ":" in reward else (*names, "answer", *RESERVED)
    kept = [name for name in fields if name not in left_out]
    for example in examples.values():
        yield example, {name: example.columns.get(name) for name in kept}


def _check_whole(path: Path, examples: Collection[Example], field: str) -> None:
    """Refuse whole numbers that pandas or datasets have made floats of, which no policy writes."""
    values = [e.columns[field] for e in examples]
    if values and all(isinstance(v, float) and v.is_integer() for v in values):
        first = next(iter(examples)).answer
        got = f"answers that are all whole numbers written like {first!r}"
        fix = f"write them as {float(first):.0f}, or in quotes if the point is meant"
        raise UserError(str(path), got, "answers as the policy writes them, token by token", fix)
