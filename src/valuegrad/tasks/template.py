"""Templates of prompts: format strings whose fields are known."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from dataclasses import replace

from valuegrad.errors import UserError
from valuegrad.rewards.example import Example


def check_template(argument: str, template: str, needed: str, others: Sequence[str] = ()) -> str:
    """Refuse what is no format string with the fields that it should have.

    Args:
        argument: what the user knows the template by.
        template: the format string.
        needed: the field that it must have.
        others: fields that it may have.

    Returns:
        The template.

    Raises:
        UserError: it does not parse, lacks the field or has unknown ones.

    Example:
        >>> check_template("prompt_template", "Q: {prompt}", "prompt")
        'Q: {prompt}'
    """
    wanted = f"{{{needed}}}" + (f" and any of {tuple(others)}" if others else " and no other field")
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(argument, repr(template), "a format string", str(error)) from error
    fields = {name for _, name, _, _ in parsed if name is not None}
    unknown = fields - {needed, *others}
    if unknown or needed not in fields:
        fault = f"with {sorted(unknown)}" if unknown else f"without {{{needed}}}"
        raise UserError(
            argument,
            f"{template!r}, {fault}",
            wanted,
            "change the fields; a brace that is text is written twice",
        )
    return template


def apply_template(template: str | None, examples: Iterable[Example]) -> tuple[Example, ...]:
    """Put the prompt of each example into a template.

    Args:
        template: a format string with ``{prompt}``, checked; None changes nothing.
        examples: the examples.

    Returns:
        The examples with their new prompts.
    """
    if template is None:
        return tuple(examples)
    return tuple(replace(e, prompt=template.format(prompt=e.prompt)) for e in examples)
