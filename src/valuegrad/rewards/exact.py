"""The reward `exact`: 1 for the answer itself, token by token."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Exact:
    """Reward 1 for the answer itself, 0 for everything else."""

    @property
    def identity(self) -> str:
        """What the hash of a task takes of the reward."""
        return "exact"

    @property
    def binary(self) -> bool:
        """Whether every reward is known to be 0 or 1."""
        return True
