"""What names an RL run: one place for every hyper-parameter and its default."""

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from valuegrad.errors import UserError
from valuegrad.settings import Count, Natural, Positive, settings

Method = Literal["grpo", "dr_grpo", "rloo", "reinforce", "ppo"]
METHODS: tuple[Method, ...] = get_args(Method)


def _increasing(updates: tuple[int, ...]) -> tuple[int, ...]:
    if not updates or list(updates) != sorted(set(updates)):
        wanted, fix = "increasing whole numbers from 1", "for example 10,20,25,30"
        raise UserError("updates", str(list(updates)), wanted, fix)
    return updates


Updates = Annotated[tuple[Count, ...], Field(strict=False), AfterValidator(_increasing)]


@settings
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
    learning_rate: Positive = 1e-5
    updates: Updates = (10, 20, 25, 30)
    seeds: Count = 3
    seed: Natural = 0
    prompts_per_update: Count = 32
    group_size: Annotated[int, Field(ge=2)] = 16
    inner_epochs: Count = 1
    clip: Positive = 0.2
    beta: Annotated[float, Field(ge=0)] = 0.0
    kl: Literal["exact", "k3"] = "exact"
    max_gradient_norm: Positive = 1.0
    engine: Literal["auto", "one_token", "trl"] = "auto"
    lora_rank: Natural = 0

    @property
    def mean_updates(self) -> float:
        """The mean over the budgets: what a single prediction of the mean gain is for."""
        return sum(self.updates) / len(self.updates)
