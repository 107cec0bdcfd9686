"""The reward `exact`: 1 for the answer itself, token by token."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Exact:
    """Reward 1 for the answer itself, 0 for everything else."""

    identity: ClassVar[str] = "exact"  # what the hash of a task takes of it
    binary: ClassVar[bool] = True  # whether every reward is known to be 0 or 1
