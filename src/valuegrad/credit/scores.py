"""Score vectors s = ∂/∂h Σ_k log π(o_k|s_k) of rollouts at the state that a group shares (Eq. 9).

N prompts · G completions of each · D width
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.credit.completions import completions
from valuegrad.credit.costates import Costates, costates_at
from valuegrad.model.policy import Policy, Site
from valuegrad.sampler import Rollouts


def prompt_state_scores(
    policy: Policy, drawn: Rollouts, site: Site = "final"
) -> tuple[Float[Tensor, "N G D"], Float[Tensor, "N G"]]:
    """The score vector of each rollout at the last token of what its group continues.

    Args:
        policy: the policy.
        drawn: the rollouts.
        site: ``"embedding"``, a block's number or ``"final"``.

    Returns:
        The costates of advantage 1, and Σ_t log π(o_t|s_t) of each completion in nats, float64.

    Raises:
        UserError: no such site.

    Example:
        ``scores, _ = prompt_state_scores(policy, drawn); squared_norm(scores, drawn.rewards)``
    """
    found = scored(policy, drawn.sequences, drawn.lengths, site)
    shape = drawn.rewards.shape
    return found.total[:, 0].view(*shape, -1), found.logp.double().sum(1).view(shape)


def scored(
    policy: Policy, sequences: Sequence[Sequence[int]], starts: int | Sequence[int], site: Site
) -> Costates:
    """The costates of advantage 1, not split; at a completion's first token they are its score."""
    batch = completions(policy, sequences, starts, torch.ones(len(sequences)))
    return next(iter(costates_at(policy, batch, (site,), split=False).values()))
