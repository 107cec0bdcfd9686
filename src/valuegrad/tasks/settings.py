"""From settings to a task: what the command line and study configurations share."""

import inspect
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from valuegrad.errors import UserError, suggestion
from valuegrad.rewards.exact import Exact
from valuegrad.rewards.named import TIMEOUT, reward_named
from valuegrad.settings import Count, Positive, settings
from valuegrad.tasks import gym
from valuegrad.tasks.arithmetic import arithmetic
from valuegrad.tasks.jsonl import jsonl_task
from valuegrad.tasks.label_copy import label_copy
from valuegrad.tasks.task import Task, check_text

KINDS = ("label-copy", "arithmetic", "gym:NAME")


@settings
class TaskSettings:
    r"""What names a task.

    Attributes:
        name: ``label-copy``, ``arithmetic``, ``gym:NAME`` (a data set of reasoning-gym), or the
            path of a JSONL file.
        prompts: held-out prompts to measure on; for a file the most that are drawn from it.
        train_prompts: prompts that RL draws from (all but JSONL).
        seed: of the generator (all but JSONL).
        labels: the labels (label-copy).
        template: a format string with ``{label}`` (label-copy).
        operation: ``+``, ``-`` or ``*`` (arithmetic).
        digits: the most digits of an operand (arithmetic).
        prompt_field: field with the prompt (JSONL).
        answer_field: field with the answer (JSONL).
        eval_fraction: share of the prompts held out (JSONL).
        prompt_template: a format string with ``{prompt}``, such as
            ``Question: {prompt}\nAnswer:`` (all but label-copy).
        reward: ``exact``, ``number`` (the last number is the answer's), ``math`` (equal by
            math-verify) or ``module:function`` with TRL's signature (JSONL, arithmetic).
        reward_timeout: the most seconds that a call of a ``module:function`` may take.
        threshold: verifier's score from which an answer is right (gym:NAME).
        max_tokens: the most tokens of a completion; by default the longest answer where the reward
            is exact, else 256.
        stop: text of one token that ends a completion, beside the model's own stop token; by
            default a line break for arithmetic and gym:NAME with answers of one line; empty for
            none.
    """

    name: str = "label-copy"
    prompts: Count = 256
    train_prompts: Count = 1024
    seed: int = 0
    labels: Annotated[tuple[str, ...], Field(strict=False)] = ("A", "B", "C", "D")
    template: str | None = None
    operation: str = "+"
    digits: int = 2
    prompt_field: str = "prompt"
    answer_field: str = "answer"
    eval_fraction: float = 0.5
    prompt_template: str | None = None
    reward: str = "exact"
    reward_timeout: Positive = TIMEOUT
    threshold: float = 1.0
    max_tokens: Count | None = None
    stop: str | None = None

    @property
    def is_file(self) -> bool:
        """Whether the prompts are the user's own, of which no stop is known."""
        return self.name not in KINDS and not self.name.startswith(gym.PREFIX)


def build_task(settings: TaskSettings) -> Task:
    """Make the task that settings name, and try its reward on two prompts."""
    name = settings.name
    if name == "label-copy":
        task = label_copy(**_used(settings, label_copy))
    elif name == "arithmetic":
        options = _used(settings, arithmetic, "reward", "reward_timeout")
        reward = reward_named(settings.reward, settings.reward_timeout)
        task = replace(arithmetic(**options), reward=reward)
    elif name.startswith(gym.PREFIX):
        options = _used(settings, gym.gym_task)
        options["prompt_template"] = options["prompt_template"] or gym.TEMPLATE
        task = gym.gym_task(name.removeprefix(gym.PREFIX), **options)
    elif name.endswith(".jsonl") or Path(name).is_file():
        task = jsonl_task(name, **_used(settings, jsonl_task))
    else:
        fix = suggestion(name, KINDS, "use one of those")
        raise UserError("task", repr(name), f"{', '.join(KINDS)} or a JSONL file", fix)
    if settings.max_tokens is not None:
        task = replace(task, max_tokens=settings.max_tokens)
    if settings.stop is not None:
        check_text("stop", settings.stop)
        task = replace(task, stop=settings.stop or None)
    probe_reward(task)
    return task


_OF_EVERY_TASK = {"name", "max_tokens", "stop"}
_INSTEAD = {"template": "use `prompt_template`", "prompt_template": "use `template`"}


def _used(settings: TaskSettings, made_by: Callable[..., Task], *others: str) -> dict[str, Any]:
    """The settings that a function makes a task of; any other that was changed is refused."""
    parameters = set(inspect.signature(made_by).parameters) - _OF_EVERY_TASK
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name not in {*parameters, *others, *_OF_EVERY_TASK} and value != field.default:
            # A seed alone could be that of RL.
            argument = "task_seed" if field.name == "seed" else field.name
            wanted = f"none for {settings.name}, which does not read it"
            raise UserError(argument, repr(value), wanted, _INSTEAD.get(field.name, "leave it out"))
    return {f.name: getattr(settings, f.name) for f in fields(settings) if f.name in parameters}


def probe_reward(task: Task) -> None:
    """Call a task's reward on two prompts, answered rightly and not at all, before any work."""
    if isinstance(task.reward, Exact):
        return
    examples = [e for e in (*task.evaluation, *task.train)[:2] for _ in range(2)]
    completions = [e.answer if i % 2 == 0 else "" for i, e in enumerate(examples)]
    made_up_ids = [list(c.encode()) for c in completions]  # no model is there yet
    values = task.reward(examples, completions, made_up_ids)
    for example, completion, value in zip(examples, completions, values, strict=True):
        if task.reward.binary and completion and value != 1:
            got = f"{value:g} for the right answer {completion!r} of prompt {example.prompt!r}"
            wanted = "answers that this reward can read"
            fix = "name the field by `answer_field`, or choose another `reward`"
            raise UserError(f"reward {task.reward.name}", got, wanted, fix)
