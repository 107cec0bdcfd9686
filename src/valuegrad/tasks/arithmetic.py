"""Arithmetic, generated: ``37+48=`` is to be continued with ``85`` and a line break.

All problems with operands of up to so many digits form the space; a fixed quarter of it, decided by
each problem's text, is held out whatever the seed and the counts. So a model that was pretrained on
`training_problems` has seen none of the prompts that any task measures on.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Iterator

from valuegrad.errors import UserError
from valuegrad.rewards.exact import Exact
from valuegrad.rewards.example import Example
from valuegrad.tasks.task import HELD_OUT, Task, held_out
from valuegrad.tasks.template import apply_template, check_template

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
MOST_DIGITS = 100


def arithmetic(
    *,
    prompts: int = 256,
    train_prompts: int = 1024,
    operation: str = "+",
    digits: int = 2,
    seed: int = 0,
    prompt_template: str | None = None,
) -> Task:
    """Problems such as ``37+48=``, their operands uniform among the numbers of up to ``digits``.

    The same arguments give the same problems anywhere, and with a higher count the first ones stay.
    Of ``-`` the answer may be negative, written ``-5``. A line break ends a completion, as models
    write such lines one below the other.

    Args:
        prompts: number of held-out problems to measure on.
        train_prompts: number of problems that RL draws from.
        operation: ``+``, ``-`` or ``*``.
        digits: the most digits of an operand, without leading zeros.
        seed: of the generator.
        prompt_template: a format string with ``{prompt}``, such as solved examples before it.

    Returns:
        The task, its reward exact, its splits disjoint by construction.

    Raises:
        UserError: counts below 1, an unknown operation, digits out of range, or more problems than
            there are; an unusable template.

    Example:
        >>> task = arithmetic(prompts=2, train_prompts=2)
        >>> [eval(e.prompt[:-1]) == int(e.answer) for e in task.evaluation]
        [True, True]
    """
    for argument, count in (("prompts", prompts), ("train_prompts", train_prompts)):
        if count < 1:
            raise UserError(argument, str(count), "1 or more", "raise it")
    _check(operation, digits)
    if prompt_template is not None:
        check_template("prompt_template", prompt_template, "prompt")
    splits = {}
    for argument, count in (("train_prompts", train_prompts), ("prompts", prompts)):
        rng = random.Random(f"arithmetic {seed} {argument}")
        evaluation = argument == "prompts"
        found = _distinct(rng, operation, digits, count, evaluation=evaluation)
        if len(found) < count:
            raise UserError(
                argument,
                str(count),
                f"at most {len(found)}: {digits}-digit {operation!r} has no more different "
                f"{'held-out' if evaluation else 'training'} problems",
                "ask for fewer, or raise digits",
            )
        splits[argument] = apply_template(prompt_template, found)
    return Task("arithmetic", splits["train_prompts"], splits["prompts"], Exact(), stop="\n")


def training_problems(
    rng: random.Random, *, operation: str = "+", digits: int = 2
) -> Iterator[Example]:
    """Problems of the training side for ever, repeats included; none of them is ever held out.

    Args:
        rng: the source of chance.
        operation: ``+``, ``-`` or ``*``.
        digits: the most digits of an operand.

    Yields:
        A problem with its answer.

    Raises:
        UserError: an unknown operation, or digits out of range.

    Example:
        >>> problem = next(training_problems(random.Random(0), operation="*"))
        >>> eval(problem.prompt[:-1]) == int(problem.answer)
        True
    """
    _check(operation, digits)
    while True:
        pair = _operands(rng, digits)
        if not _held_out(pair, operation):
            yield _problem(pair, operation)


def _distinct(
    rng: random.Random, operation: str, digits: int, count: int, *, evaluation: bool
) -> tuple[Example, ...]:
    """Distinct problems of one split; all of them where there are fewer."""
    space = 10 ** (2 * digits)
    seen: set[tuple[int, int]] = set()
    found: list[Example] = []
    while len(found) < count and len(seen) < space:
        pair = _operands(rng, digits)
        if pair not in seen:
            seen.add(pair)
            if _held_out(pair, operation) == evaluation:
                found.append(_problem(pair, operation))
    return tuple(found)


def _operands(rng: random.Random, digits: int) -> tuple[int, int]:
    return rng.randrange(10**digits), rng.randrange(10**digits)


def _held_out(pair: tuple[int, int], operation: str) -> bool:
    # 48+37 gives 37+48 away, so the two stay on one side.
    left, right = pair if operation == "-" else sorted(pair)
    return held_out(f"{left}{operation}{right}=", HELD_OUT)


def _problem(pair: tuple[int, int], operation: str) -> Example:
    left, right = pair
    return Example(f"{left}{operation}{right}=", str(OPERATIONS[operation](left, right)))


def _check(operation: str, digits: int) -> None:
    if operation not in OPERATIONS:
        raise UserError("operation", repr(operation), f"one of {' '.join(OPERATIONS)}", "use +")
    if not 1 <= digits <= MOST_DIGITS:
        raise UserError("digits", str(digits), f"1 to {MOST_DIGITS}", "use 2")
