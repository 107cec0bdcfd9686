"""How a task is measured: in closed form or from rollouts, and how many of these."""

from typing import Annotated, Literal

from pydantic import Field

from valuegrad.settings import Count, Natural, settings

ALPHA = 5.0  # tilt of the headroom (Eq. 28), for rewards in [0, 1]
Estimator = Literal["auto", "closed-form", "sampled"]


@settings
class Sampling:
    """What decides the probe step, and the rollouts that a task is measured by where it needs any.

    Attributes:
        estimator: closed-form (tasks with one-token answers or an exact reward), sampled (any), or
            auto (closed-form where it can be).
        rollouts: completions drawn of each prompt; at least two more than the group size.
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
    rollouts: Annotated[int, Field(ge=4)] = 32
    branch: Natural = 0
    rollout_seed: Natural = 0
    probe_steps: Count | None = None
    probe_prompts: Count | None = None

    def steps(self, one_token: bool) -> int:
        """How many steps the probe's move is made of."""
        # The reward of several tokens bends more: their probabilities multiply.
        return self.probe_steps or (1 if one_token else 4)
