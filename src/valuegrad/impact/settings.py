"""How a task is measured: in closed form or from rollouts, and how many of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from valuegrad.errors import UserError

# The reward of several tokens bends more: their probabilities multiply.
LONGER_STEPS = 4
Estimator = Literal["auto", "closed-form", "sampled"]


@dataclass(frozen=True)
class Sampling:
    """What decides the probe step, and the rollouts that a task is measured by where it needs any.

    Attributes:
        estimator: closed-form (tasks with one-token answers or an exact reward), sampled (any), or
            auto (closed-form where it can be).
        rollouts: completions drawn of each prompt; at least 4, and the group size.
        branch: deeper states of each prompt that get rollouts of their own.
        rollout_seed: of the draws.
        probe_steps: steps that the probe's move is made of, its update formed anew after each; by
            default 1 for one-token answers and 4 for longer ones.
        probe_prompts: training prompts that form that update, at most all; by default half as many
            as are held out. The fewer, the smaller the predicted gain: compare at equal numbers.

    Raises:
        UserError: a value out of range.

    Example:
        >>> Sampling(rollouts=64).estimator
        'auto'
    """

    estimator: Estimator = "auto"
    rollouts: int = 32
    branch: int = 0
    rollout_seed: int = 0
    probe_steps: int | None = None
    probe_prompts: int | None = None

    def __post_init__(self) -> None:
        least = {"rollouts": 4, "branch": 0, "rollout_seed": 0}
        for name, lowest in (least | {"probe_steps": 1, "probe_prompts": 1}).items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise UserError(name, str(value), f"{lowest} or more", "raise it")
        known = get_args(Estimator)
        if self.estimator not in known:
            raise UserError("estimator", repr(self.estimator), " or ".join(known), "choose one")

    def steps(self, one_token: bool) -> int:
        """How many steps the probe's move is made of."""
        return self.probe_steps or (1 if one_token else LONGER_STEPS)
