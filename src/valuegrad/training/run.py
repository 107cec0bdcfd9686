"""What every engine shares: the result of a run, the order of its prompts, and how one fails."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from valuegrad.budget import Budget
from valuegrad.errors import RunError
from valuegrad.impact.held_out import held_out_rewards
from valuegrad.model.policy import Policy
from valuegrad.prompts import Prompts


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


def held_out_reward(policy: Policy, prompts: Prompts, budget: Budget) -> float:
    """The mean held-out reward of a run's policy, if that is finite."""
    reward = float(held_out_rewards(policy, prompts).mean())
    if not math.isfinite(reward):
        raise not_finite(budget)
    return reward


def not_finite(budget: Budget) -> RunError:
    """What a run ends with whose policy has left the finite numbers."""
    return RunError(
        f"the policy left the finite numbers at learning rate {budget.learning_rate}; "
        "lower `learning_rate` and run again"
    )
