"""What every engine shares: the result of a run, the order of its prompts, and how one fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from valuegrad.budget import Budget
from valuegrad.errors import NotFiniteError, RunError


@dataclass(frozen=True)
class Training:
    """One run of GRPO from one checkpoint.

    Attributes:
        seed: of the run.
        budget: its hyper-parameters.
        reward_before: mean held-out reward before the first update, reward units.
        rewards_after: the same after each number of updates in ``budget.updates``.
        zero_spread_groups: share of all groups whose actions earned the same.
        engine: what ran it.
    """

    seed: int
    budget: Budget
    reward_before: float
    rewards_after: tuple[float, ...]
    zero_spread_groups: float
    engine: str

    @property
    def gains(self) -> tuple[float, ...]:
        """Reward after minus reward before, per number of updates."""
        return tuple(after - self.reward_before for after in self.rewards_after)


def prompt_order(count: int, size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Endless batches of prompts, every prompt once before any comes again."""
    waiting: list[int] = []
    while True:
        while len(waiting) < size:
            waiting += torch.randperm(count, generator=generator).tolist()
        yield waiting[:size]
        waiting = waiting[size:]


@contextmanager
def diverging(budget: Budget) -> Iterator[None]:
    """Say of a policy that leaves the finite numbers here that the updates led it there."""
    try:
        yield
    except NotFiniteError as error:
        raise RunError(
            f"the policy left the finite numbers at learning rate {budget.learning_rate}; "
            "lower `learning_rate` and run again"
        ) from error
