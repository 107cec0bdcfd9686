"""From settings to a task: what the command line and study configurations share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from valuegrad.errors import UserError
from valuegrad.tasks.jsonl import jsonl_task
from valuegrad.tasks.label_copy import label_copy
from valuegrad.tasks.task import Task


@dataclass(frozen=True)
class TaskSettings:
    """What names a task.

    Attributes:
        name: ``label-copy``, or the path of a JSONL file.
        prompts: held-out prompts to measure on; for a file the most that are taken.
        train_prompts: prompts that RL draws from (label-copy).
        seed: of the generator (label-copy).
        labels: the labels (label-copy).
        template: a format string with ``{label}`` (label-copy).
        prompt_field: field with the prompt (JSONL).
        answer_field: field with the answer (JSONL).
        eval_fraction: share of the prompts held out (JSONL).
        reward: ``exact`` or ``module:function`` (JSONL).
    """

    name: str = "label-copy"
    prompts: int = 256
    train_prompts: int = 1024
    seed: int = 0
    labels: tuple[str, ...] = ("A", "B", "C", "D")
    template: str | None = None
    prompt_field: str = "prompt"
    answer_field: str = "answer"
    eval_fraction: float = 0.5
    reward: str = "exact"


def build_task(settings: TaskSettings) -> Task:
    """Make the task that settings name.

    Args:
        settings: the task's name and options.

    Returns:
        The task.

    Raises:
        UserError: no such task, or options that do not fit it.

    Example:
        >>> build_task(TaskSettings(prompts=4, train_prompts=4)).name
        'label-copy'
    """
    if settings.name == "label-copy":
        if settings.reward != "exact":
            raise UserError(
                "reward", repr(settings.reward), "exact for label-copy", "use a JSONL task"
            )
        return label_copy(
            prompts=settings.prompts, train_prompts=settings.train_prompts, seed=settings.seed,
            labels=settings.labels, template=settings.template,
        )  # fmt: skip
    if settings.name.endswith(".jsonl") or Path(settings.name).is_file():
        return jsonl_task(
            settings.name, prompt_field=settings.prompt_field, answer_field=settings.answer_field,
            reward=settings.reward, eval_fraction=settings.eval_fraction, prompts=settings.prompts,
        )  # fmt: skip
    raise UserError("task", repr(settings.name), "label-copy or a JSONL file", "use one of those")
