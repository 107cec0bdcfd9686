"""What names an RL run: one place for every hyper-parameter and its default."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from valuegrad.errors import UserError, check_positive
from valuegrad.methods import Method, check_method


@dataclass(frozen=True)
class Budget:
    """An RL budget and the hyper-parameters of the runs that spend it.

    Attributes:
        method: the critic-free method.
        learning_rate: Adam's, constant over the run.
        updates: optimiser updates at which the reward is read off, increasing.
        seeds: independent runs a checkpoint.
        seed: of the first of them; the others count up from it.
        prompts_per_update: prompts forwarded an update.
        group_size: actions drawn a prompt.
        inner_epochs: optimiser updates on one batch of actions; ratios leave 1 from the second on.
        clip: ε of the clipped ratio.
        beta: weight of the KL penalty to the starting policy.
        kl: the penalty over the whole vocabulary (``exact``), or its k3 estimate from the drawn
            actions as in TRL (``k3``).
        max_gradient_norm: gradients longer than this are scaled down to it.
        engine: ``one_token``, the own loop, which needs answers of one token; ``trl``, TRL's
            GRPOTrainer; or ``auto``, the own loop where it can and TRL everywhere else.
        lora_rank: rank of the LoRA matrices that learn in the place of the weights (TRL only); 0
            trains the weights themselves.

    Raises:
        UserError: a value out of range.

    Example:
        >>> Budget(updates=(5, 10)).mean_updates
        7.5
    """

    method: Method = "grpo"
    learning_rate: float = 1e-5
    updates: tuple[int, ...] = (10, 20, 25, 30)
    seeds: int = 3
    seed: int = 0
    prompts_per_update: int = 32
    group_size: int = 16
    inner_epochs: int = 1
    clip: float = 0.2
    beta: float = 0.0
    kl: Literal["exact", "k3"] = "exact"
    max_gradient_norm: float = 1.0
    engine: Literal["auto", "one_token", "trl"] = "auto"
    lora_rank: int = 0

    def __post_init__(self) -> None:
        check_method(self.method)
        updates = tuple(self.updates)
        if not updates or updates[0] < 1 or list(updates) != sorted(set(updates)):
            got, wanted = str(list(updates)), "increasing whole numbers from 1"
            raise UserError("updates", got, wanted, "for example 10,20,25,30")
        least_of = {"seeds": 1, "seed": 0, "prompts_per_update": 1, "inner_epochs": 1}
        for name, least in {**least_of, "group_size": 2, "lora_rank": 0}.items():
            if getattr(self, name) < least:
                raise UserError(name, str(getattr(self, name)), f"{least} or more", "raise it")
        for name in ("learning_rate", "clip", "max_gradient_norm"):
            check_positive(name, getattr(self, name), "change it")
        if not (math.isfinite(self.beta) and self.beta >= 0):
            raise UserError("beta", str(self.beta), "0 or more", "use 0 for no penalty")
        if self.kl not in ("exact", "k3"):
            raise UserError("kl", repr(self.kl), "exact or k3", "choose one")
        if self.engine not in ("auto", "one_token", "trl"):
            raise UserError("engine", repr(self.engine), "auto, one_token or trl", "choose one")

    @property
    def mean_updates(self) -> float:
        """The mean over the budgets: what a single prediction of the mean gain is for."""
        return sum(self.updates) / len(self.updates)
