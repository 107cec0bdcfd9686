"""Score vectors s = ∂/∂h Σ_k log π(o_k|s_k) of rollouts at the state that a group shares (Eq. 9).

N prompts · G completions of each · D width
"""

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.credit.completions import completions
from valuegrad.credit.costates import costates_at
from valuegrad.model.policy import Policy, Site
from valuegrad.model.sites import check_site
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
    site = check_site(policy, site)
    ones = torch.ones(len(drawn.lengths), dtype=policy.head.dtype)
    batch = completions(policy, drawn.sequences, drawn.lengths, ones)
    found = costates_at(policy, batch, (site,), split=False)[site]
    shape = drawn.rewards.shape
    return found.total[:, 0].view(*shape, -1), found.logp.double().sum(1).view(shape)
