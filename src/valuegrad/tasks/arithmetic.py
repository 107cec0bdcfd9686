"""Arithmetic, generated: ``37+48=`` is to be continued with ``85`` and a line break.

Of all problems with operands of up to so many digits a fixed quarter, decided by each problem's
text, is held out whatever the seed and the counts: a model that was pretrained on
`training_problems` has seen none of the prompts that any task measures on.
"""

import operator
import random
from collections.abc import Iterator

from valuegrad.errors import UserError
from valuegrad.rewards.exact import Exact
from valuegrad.rewards.example import Example
from valuegrad.tasks.task import Task, apply_template, check_counts, check_template, held_out

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
    check_counts(prompts=prompts, train_prompts=train_prompts)
    _check(operation, digits)
    check_template("prompt_template", prompt_template, "prompt")
    splits = {}
    for argument, count in (("train_prompts", train_prompts), ("prompts", prompts)):
        side = "held-out" if argument == "prompts" else "training"
        rng = random.Random(f"arithmetic {seed} {argument}")
        found: list[Example] = []
        seen: set[str] = set()
        for problem, held in _drawn(rng, operation, digits):
            if problem.prompt not in seen and held == (side == "held-out"):
                found.append(problem)
            seen.add(problem.prompt)
            if len(found) == count or len(seen) == 10 ** (2 * digits):
                break
        if len(found) < count:
            wanted = f"at most {len(found)}: {digits}-digit {operation!r} has no more different "
            fix = "ask for fewer, or raise `digits`"
            raise UserError(argument, str(count), f"{wanted}{side} problems", fix)
        splits[argument] = apply_template(prompt_template, found)
    return Task("arithmetic", splits["train_prompts"], splits["prompts"], Exact(), stop="\n")


def training_problems(
    rng: random.Random, *, operation: str = "+", digits: int = 2
) -> Iterator[Example]:
    """Problems of the training side for ever, repeats included; none of them is ever held out."""
    _check(operation, digits)
    return (problem for problem, held in _drawn(rng, operation, digits) if not held)


def _drawn(rng: random.Random, operation: str, digits: int) -> Iterator[tuple[Example, bool]]:
    """Problems for ever, repeats included, each with whether it is held out."""
    while True:
        left, right = rng.randrange(10**digits), rng.randrange(10**digits)
        # 48+37 gives 37+48 away, so the two stay on one side.
        first, second = (left, right) if operation == "-" else sorted((left, right))
        held = held_out(f"{first}{operation}{second}=")
        answer = str(OPERATIONS[operation](left, right))
        yield Example(f"{left}{operation}{right}=", answer), held


def _check(operation: str, digits: int) -> None:
    if operation not in OPERATIONS:
        raise UserError("operation", repr(operation), f"one of {' '.join(OPERATIONS)}", "use +")
    if not 1 <= digits <= MOST_DIGITS:
        raise UserError("digits", str(digits), f"1 to {MOST_DIGITS}", "use 2")
