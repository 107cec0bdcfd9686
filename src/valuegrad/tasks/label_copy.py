"""The paper's controlled task: a label stands in the prompt; the policy must copy it.

Names, wording and distractor lines vary so that a prompt cannot be learnt by heart, and read like
the source code that small models are trained on. Prompts come in blocks that hold every template
with every label once (a stratified sample): they differ most in these two, so a few blocks rank
checkpoints as many independent draws would.
"""

import itertools
import math
import random
from collections.abc import Sequence

from valuegrad.errors import UserError
from valuegrad.rewards.exact import Exact
from valuegrad.rewards.example import Example
from valuegrad.tasks.task import Task, check_counts, check_template, check_text, held_out

TEMPLATES = (
    "{before}{name} = '{label}'\n{between}{answer} = '",
    "{before}self.{name} = '{label}'\n{between}self.{answer} = '",
    "{before}assert {name} == '{label}'\n{between}assert {answer} == '",
    "{before}    '{name}': '{label}',\n{between}    '{answer}': '",
)
NAMES = (
    *("label", "kind", "mode", "name", "key", "tag", "level", "state"),
    *("choice", "group", "symbol", "letter", "option", "code", "flag", "category"),
)
ANSWERS = ("answer", "result", "value", "output", "expected", "target", "copy", "other")
COUNTERS = ("count", "size", "width", "index", "total", "offset", "start", "limit")
FIELDS = ("name", "answer", "before", "between")
# Draws before a cell counts as used up, per prompt of this split that the draws should hold.
ATTEMPTS = 50


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
    check_counts(prompts=prompts, train_prompts=train_prompts)
    if len(set(labels)) < 2 or not all(labels):
        raise UserError("labels", repr(list(labels)), "2 different labels or more", "add labels")
    check_text("labels", list(labels))
    check_template("template", template, "label", *FIELDS)
    cells = list(itertools.product(TEMPLATES if template is None else (template,), labels))
    share = prompts / (prompts + train_prompts)
    splits = {}
    for name, count in (("training", train_prompts), ("held-out", prompts)):
        rng = random.Random(f"label-copy {seed} {name}")
        splits[name] = _split(rng, cells, count, share, evaluation=name == "held-out")
        if len(splits[name]) < count:
            got = f"a template that made only {len(splits[name])} {name} prompts"
            fix = "add {name}, {answer}, {before} or {between} to it, or ask for fewer"
            raise UserError("template", got, f"{count} different ones", fix)
    return Task("label-copy", splits["training"], splits["held-out"], Exact())


def _split(
    rng: random.Random, cells: list[tuple[str, str]], count: int, share: float, *, evaluation: bool
) -> tuple[Example, ...]:
    """Distinct prompts of one split, in blocks of all cells; fewer where no more can be made."""
    attempts = math.ceil(ATTEMPTS / (share if evaluation else 1 - share))
    found: dict[str, Example] = {}
    templates = list(dict.fromkeys(template for template, _ in cells))
    known = -1
    while known < len(found) < count:
        known = len(found)
        for template, label in rng.sample(cells, len(cells)):
            stratum = f"{templates.index(template)}:{label}"
            for _ in range(attempts):
                example = _example(rng, template, label, stratum)
                if held_out(example.prompt, share) == evaluation and example.prompt not in found:
                    found[example.prompt] = example
                    break
    return tuple(found.values())[:count]


def _example(rng: random.Random, template: str, label: str, stratum: str) -> Example:
    name, answer = rng.choice(NAMES), rng.choice(ANSWERS)
    before, between = _distractors(rng), _distractors(rng)
    prompt = template.format(label=label, name=name, answer=answer, before=before, between=between)
    return Example(prompt, label, stratum=stratum)


def _distractors(rng: random.Random) -> str:
    lines = (f"{rng.choice(COUNTERS)} = {rng.randrange(100)}\n" for _ in range(rng.randrange(3)))
    return "".join(lines)
