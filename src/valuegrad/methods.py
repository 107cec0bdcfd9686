"""The critic-free methods (theory §3): advantages from rewards, of samples and of populations.

At the policy that drew them, a method's update is mean_i Â_i w(T_i) ∇ log π(o_i) over completions
of T_i tokens, stop token included:

| method    | Â                          | w(T) | TRL                                             |
|-----------|----------------------------|------|-------------------------------------------------|
| grpo      | (r − mean) / (std + ξ)     | 1/T  | GRPO, loss_type="grpo", scale_rewards="group"   |
| dr_grpo   | r − mean                   | 1/L  | GRPO, loss_type="dr_grpo", scale_rewards="none" |
| rloo      | r − mean of the others     | 1    | RLOO                                            |
| reinforce | r                          | 1    | –                                               |
| ppo       | as grpo, of the whole batch| 1/T  | – (its "batch" keeps the group's mean)          |

L is the most tokens that a completion may have. Only where w depends on T is the expected update
not the gradient of a mean reward (theory §7.3).

N prompts · G actions in a group
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from valuegrad.budget import METHODS, Method
from valuegrad.errors import UserError

PER_LENGTH: tuple[Method, ...] = ("grpo", "ppo")
"""The methods whose completions weigh 1/T each."""
XI = 1e-4
"""Added to a standard deviation before dividing by it, as TRL does."""


@dataclass(frozen=True)
class PopulationAdvantages:
    """Advantages over a whole distribution of actions: A(a) = slope · (r_a − baseline).

    Attributes:
        slope: factor per prompt, in inverse reward units for grpo and ppo, 1 otherwise.
        baseline: what is taken off the reward per prompt, in reward units.
    """

    slope: Float[Tensor, " N"]
    baseline: Float[Tensor, " N"]

    def at(self, rows: list[int]) -> "PopulationAdvantages":
        """The same for some of the prompts."""
        return replace(self, slope=self.slope[rows], baseline=self.baseline[rows])


def advantages(rewards: Float[Tensor, "N G"], method: Method = "grpo") -> Float[Tensor, "N G"]:
    """Advantages of sampled groups by one of the critic-free methods.

    ``grpo``: (r − mean) / (std + ξ) in the group; ``dr_grpo``: r − mean in the group; ``rloo``:
    r − mean of the others in the group; ``reinforce``: r; ``ppo``: (r − mean) / (std + ξ) over the
    whole batch. Standard deviations have Bessel's correction and ξ = 1e-4, as in TRL (grpo and
    dr_grpo are its ``scale_rewards="group"`` and ``"none"``). A group whose rewards are all equal
    gets zero from the three methods with a group baseline.

    Args:
        rewards: one row a prompt, one column an action, in reward units.
        method: one of `METHODS`.

    Returns:
        Advantages of the same shape, without gradient.

    Raises:
        UserError: an unknown method, rewards that are not finite, or groups of one action where
            the method compares within the group.

    Example:
        >>> advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), "rloo")
        tensor([[ 1.0000, -0.3333, -0.3333, -0.3333]])
    """
    check_method(method)
    rewards = rewards.detach()
    if not torch.isfinite(rewards).all():
        raise UserError("rewards", "NaN or infinity", "finite numbers", "mend the reward function")
    if method == "reinforce":
        return rewards.clone()
    if rewards.shape[1] < 2 and (method != "ppo" or rewards.numel() < 2):
        raise UserError("rewards", "groups of 1 action", "2 or more", "raise the group size")
    # The rounding of a mean must not turn equal rewards into a signal, here and below.
    if method == "ppo":
        if rewards.max() == rewards.min():
            return torch.zeros_like(rewards)
        return (rewards - rewards.mean()) / (rewards.std() + XI)
    centred = rewards - rewards.mean(1, keepdim=True)
    centred = torch.where(zero_spread(rewards)[:, None], 0.0, centred)
    if method == "grpo":
        return centred / (rewards.std(1, keepdim=True) + XI)
    if method == "rloo":
        return centred * (rewards.shape[1] / (rewards.shape[1] - 1))
    return centred


def zero_spread(rewards: Float[Tensor, "N G"]) -> Tensor:
    """Which groups have equal rewards throughout, so that a group baseline leaves no signal."""
    return rewards.amax(1) == rewards.amin(1)


def population_advantages(
    mean: Float[Tensor, " N"], variance: Float[Tensor, " N"], method: Method = "grpo"
) -> PopulationAdvantages:
    """Advantages with the moments of the whole distribution in the place of a group's.

    The limit of `advantages` for infinitely large groups; ``rloo`` becomes ``dr_grpo``.

    Args:
        mean: E[r] per prompt, reward units.
        variance: Var[r] per prompt, squared reward units.
        method: one of `METHODS`.

    Returns:
        Slope and baseline per prompt.

    Raises:
        UserError: an unknown method.

    Example:
        >>> p = torch.tensor([0.5], dtype=torch.float64)
        >>> population_advantages(p, p * (1 - p), "grpo").slope
        tensor([1.9996], dtype=torch.float64)
    """
    check_method(method)
    one, zero = torch.ones_like(mean), torch.zeros_like(mean)
    if method == "reinforce":
        return PopulationAdvantages(one, zero)
    if method == "ppo":
        pooled = mean.mean()
        std = (variance.mean() + mean.var(correction=0)).sqrt()
        return PopulationAdvantages(one / (std + XI), pooled.expand_as(mean))
    if method == "grpo":
        return PopulationAdvantages(1 / (variance.sqrt() + XI), mean)
    return PopulationAdvantages(one, mean)


def token_weight(
    method: Method, lengths: Int[Tensor, "*B"], max_tokens: int
) -> Float[Tensor, "*B"]:
    """w(T): what a method's loss multiplies the log-probability of a completion's tokens by.

    Args:
        method: one of `METHODS`.
        lengths: T, tokens of each completion with its stop token.
        max_tokens: L, the most that a completion may have.

    Returns:
        1/T for grpo and ppo (Eq. 1), 1/L for dr_grpo, 1 for the others, float64.

    Raises:
        UserError: an unknown method.

    Example:
        >>> token_weight("grpo", torch.tensor([1, 4]), 8)
        tensor([1.0000, 0.2500], dtype=torch.float64)
    """
    check_method(method)
    one = torch.ones_like(lengths, dtype=torch.float64)
    if method in PER_LENGTH:
        return one / lengths
    return one / max_tokens if method == "dr_grpo" else one


def check_method(method: str) -> None:
    """Refuse what is none of `METHODS`."""
    if method not in METHODS:
        raise UserError("method", repr(method), f"one of {', '.join(METHODS)}", "choose one")
