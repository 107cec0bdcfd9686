"""A task: prompts in two disjoint splits, and a reward."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from valuegrad.errors import UserError
from valuegrad.rewards.exact import Exact
from valuegrad.rewards.example import Example
from valuegrad.rewards.function import FunctionReward

Reward = Exact | FunctionReward
MAX_TOKENS = 256
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
    """

    name: str
    train: tuple[Example, ...]
    evaluation: tuple[Example, ...]
    reward: Reward
    max_tokens: int | None = None
    stop: str | None = None

    @property
    def sha256(self) -> str:
        """Hash of everything that decides a measurement: prompts, answers, splits and reward."""
        rows = [
            [(e.prompt, e.answer, dict(e.columns)) for e in split]
            for split in (self.train, self.evaluation)
        ]
        limits = [x for x in (self.max_tokens, self.stop) if x is not None]
        text = json.dumps([rows, self.reward.identity, *limits], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def check_task(task: object) -> None:
    """Refuse what is no task, such as its name.

    Raises:
        UserError: it is none.
    """
    if not isinstance(task, Task):
        raise UserError(
            "task", repr(task), "a Task", "make one with label_copy(), arithmetic() or jsonl_task()"
        )


def held_out(prompt: str, fraction: float) -> bool:
    """Whether a prompt belongs to the evaluation split: decided by its text alone.

    The same text always falls on the same side, so the splits cannot share a prompt.

    Args:
        prompt: the text.
        fraction: share of prompts to hold out, in [0, 1].

    Returns:
        True for about that share of all texts.

    Example:
        >>> held_out("label = 'B'", 1.0), held_out("label = 'B'", 0.0)
        (True, False)
    """
    digest = hashlib.sha256(prompt.encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64
