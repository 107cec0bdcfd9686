"""The paper's controlled task: a label stands in the prompt; the policy must copy it.

The reward of a sampled token is 1 when it is the label, so its expectation is p(label | prompt),
the quantity that the paper calls the reward. Names, wording and distractor lines vary so that a
prompt cannot be learnt by heart, and read like the source code that small models are trained on.
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence

from valuegrad.errors import UserError
from valuegrad.tasks.rewards import Exact
from valuegrad.tasks.task import Example, Task, held_out

TEMPLATES = (
    "{before}{name} = '{label}'\n{between}{answer} = '",
    "{before}self.{name} = '{label}'\n{between}self.{answer} = '",
    "{before}assert {name} == '{label}'\n{between}assert {answer} == '",
    "{before}    '{name}': '{label}',\n{between}    '{answer}': '",
)
NAMES = (
    "label", "kind", "mode", "name", "key", "tag", "level", "state", "choice", "group", "symbol",
    "letter", "option", "code", "flag", "category",
)  # fmt: skip
ANSWERS = ("answer", "result", "value", "output", "expected", "target", "copy", "other")
COUNTERS = ("count", "size", "width", "index", "total", "offset", "start", "limit")
FIELDS = ("label", "name", "answer", "before", "between")


def label_copy(
    *,
    prompts: int = 256,
    train_prompts: int = 1024,
    labels: Sequence[str] = ("A", "B", "C", "D"),
    template: str | None = None,
    seed: int = 0,
) -> Task:
    """The label-copy task, generated; the same arguments give the same prompts anywhere.

    Args:
        prompts: number of held-out prompts to measure on.
        train_prompts: number of prompts that RL draws from.
        labels: the labels, each to be one token after the prompt.
        template: a format string with ``{label}`` and, where wanted, ``{name}``, ``{answer}``,
            ``{before}`` and ``{between}`` (distractor lines); None takes the built-in ones.
        seed: of the generator.

    Returns:
        The task, its reward exact, its splits disjoint by construction.

    Raises:
        UserError: counts below 1, fewer than 2 labels, a template without ``{label}`` or with
            unknown fields, or one that cannot make so many different prompts.

    Example:
        >>> task = label_copy(prompts=2, train_prompts=2, template="{name} {label} {answer} ")
        >>> len(task.evaluation), task.evaluation[0].answer in "ABCD"
        (2, True)
    """
    for argument, count in (("prompts", prompts), ("train_prompts", train_prompts)):
        if count < 1:
            raise UserError(argument, str(count), "1 or more", "raise it")
    if len(set(labels)) < 2 or not all(labels):
        raise UserError("labels", repr(list(labels)), "2 different labels or more", "add labels")
    templates = TEMPLATES if template is None else (_checked(template),)
    rng = random.Random(f"label-copy {seed}")
    wanted = {False: train_prompts, True: prompts}
    splits: dict[bool, dict[str, Example]] = {False: {}, True: {}}
    for _ in range(200 * (prompts + train_prompts)):
        if all(len(splits[side]) == wanted[side] for side in wanted):
            break
        example = _example(rng, templates, labels)
        side = held_out(example.prompt, prompts / (prompts + train_prompts))
        if len(splits[side]) < wanted[side]:
            splits[side].setdefault(example.prompt, example)
    else:
        made = {side: len(found) for side, found in splits.items()}
        raise UserError(
            "template",
            f"a template that made only {made[True]} held-out and {made[False]} training prompts",
            f"{prompts} and {train_prompts} different ones",
            "add {name}, {answer}, {before} or {between} to the template, or ask for fewer prompts",
        )
    return Task("label-copy", tuple(splits[False].values()), tuple(splits[True].values()), Exact())


def _example(rng: random.Random, templates: Sequence[str], labels: Sequence[str]) -> Example:
    label = rng.choice(labels)
    prompt = rng.choice(templates).format(
        label=label,
        name=rng.choice(NAMES),
        answer=rng.choice(ANSWERS),
        before=_distractors(rng),
        between=_distractors(rng),
    )
    return Example(prompt, label)


def _distractors(rng: random.Random) -> str:
    lines = (f"{rng.choice(COUNTERS)} = {rng.randrange(100)}\n" for _ in range(rng.randrange(3)))
    return "".join(lines)


def _checked(template: str) -> str:
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise UserError("template", repr(template), "a format string", str(error)) from error
    unknown = fields - set(FIELDS)
    if unknown or "label" not in fields:
        got = f"{template!r}, " + (f"with {sorted(unknown)}" if unknown else "without {label}")
        raise UserError("template", got, f"{{label}} and any of {FIELDS[1:]}", "change the fields")
    return template
