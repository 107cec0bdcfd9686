"""A task: prompts in two disjoint splits, and a reward; what all kinds of tasks are made with."""

import hashlib
import json
import re
import string
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from valuegrad.errors import UserError
from valuegrad.rewards.exact import Exact
from valuegrad.rewards.example import Example
from valuegrad.rewards.function import FunctionReward
from valuegrad.rewards.named import ImportedReward

Reward = Exact | FunctionReward | ImportedReward
MAX_TOKENS = 256
UNFIT = re.compile("[\0\ud800-\udfff]")
# Share of generated problems that are held out, whatever the counts.
HELD_OUT = 0.25


@dataclass(frozen=True)
class Task:
    """Prompts to train on, prompts to measure on, and the reward of a completion.

    Attributes:
        name: for tables and records.
        train: the prompts that RL draws from, and the probe step's update.
        evaluation: the held-out prompts that are measured; disjoint from `train`.
        reward: what a completion earns.
        max_tokens: the most tokens a completion may have, its stop token included; None leaves it
            to the answers (theirs where the reward is exact, `MAX_TOKENS` otherwise).
        stop: a text of one token that ends a completion beside the model's own; None for none.
        available: how many held-out prompts there were to draw `evaluation` from; None where they
            are all there.
    """

    name: str
    train: tuple[Example, ...]
    evaluation: tuple[Example, ...]
    reward: Reward
    max_tokens: int | None = None
    stop: str | None = None
    available: int | None = None

    @property
    def n_available(self) -> int:
        """How many held-out prompts there were, drawn from or not."""
        return self.available or len(self.evaluation)

    @property
    def sha256(self) -> str:
        """Hash of everything that decides a measurement: prompts, answers, splits and reward."""
        sides = (self.train, self.evaluation)
        rows = [[(e.prompt, e.answer, dict(e.columns)) for e in side] for side in sides]
        limits = [x for x in (self.max_tokens, self.stop) if x is not None]
        text = json.dumps([rows, self.reward.identity, *limits], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def check_task(task: object) -> None:
    """Refuse what is no task, such as its name."""
    if not isinstance(task, Task):
        fix = "make one with label_copy(), arithmetic() or jsonl_task()"
        raise UserError("task", repr(task), "a Task", fix)
    for example in (*task.train, *task.evaluation):
        check_text("task", [example.prompt, example.answer])


def check_text(argument: str, value: object) -> None:
    """Refuse texts, in lists and tables too, that no tokenizer and no file can hold."""
    if isinstance(value, dict):
        check_text(argument, [*value, *value.values()])
    elif isinstance(value, list):
        for part in value:
            check_text(argument, part)
    elif isinstance(value, str) and (found := UNFIT.search(value)):
        kind = "a NUL character" if found[0] == "\0" else "half of a surrogate pair"
        got = f"{value[max(0, found.start() - 20) : found.end()]!a}, which ends in {kind}"
        raise UserError(argument, got, "text of whole characters", "mend the text")


def check_counts(**counts: int) -> None:
    """Refuse counts below 1, given under the names of their arguments."""
    for argument, count in counts.items():
        if count < 1:
            raise UserError(argument, str(count), "1 or more", "raise it")


def held_out(prompt: str, fraction: float = HELD_OUT) -> bool:
    """Whether a prompt is among the held-out share of all texts: decided by its text alone."""
    digest = hashlib.sha256(prompt.encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def split(
    examples: Iterable[Example],
    fraction: float,
    train_prompts: int = sys.maxsize,
    prompts: int = sys.maxsize,
) -> tuple[list[Example], list[Example]]:
    """The first examples with different prompts, at most so many to train and to measure on."""
    wanted = (train_prompts, prompts)
    sides: tuple[dict[str, Example], dict[str, Example]] = ({}, {})
    for example in examples:
        side = held_out(example.prompt, fraction)
        if len(sides[side]) < wanted[side]:
            sides[side].setdefault(example.prompt, example)
        if (len(sides[0]), len(sides[1])) == wanted:
            break
    return list(sides[0].values()), list(sides[1].values())


def sample(examples: Sequence[Example], count: int | None) -> list[Example]:
    """So many of a split, evenly over it and in its order; a prompt's text alone says how early."""

    def turn(row: int) -> bytes:
        # Another part of the hash than that which decided the split.
        return hashlib.sha256(examples[row].prompt.encode()).digest()[8:]

    return [examples[row] for row in sorted(sorted(range(len(examples)), key=turn)[:count])]


def check_template(argument: str, template: str | None, needed: str, *others: str) -> None:
    """Refuse what is no format string with one needed field and none but these others."""
    if template is None:
        return
    check_text(argument, template)
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(argument, repr(template), "a format string", str(error)) from error
    fields = {name for _, name, _, _ in parsed if name is not None}
    unknown = fields - {needed, *others}
    if unknown or needed not in fields:
        fault = f"with {sorted(unknown)}" if unknown else f"without {{{needed}}}"
        wanted = f"and any of {others}" if others else "and no other field"
        fix = "change the fields; a brace that is text is written twice"
        raise UserError(argument, f"{template!r}, {fault}", f"{{{needed}}} {wanted}", fix)


def apply_template(template: str | None, examples: Iterable[Example]) -> tuple[Example, ...]:
    """Put the prompt of each example into a checked template; None changes nothing."""
    whole = template or "{prompt}"
    return tuple(replace(e, prompt=whole.format(prompt=e.prompt)) for e in examples)
