"""Λ_sample = ‖G‖ · E‖λ̂ − G‖ (Eq. 26 as Section 6 measures it) from rollouts, λ̂ = Â s.

Only Gram matrices of the score vectors are needed. Both factors are norms, so no unbiased estimate
exists. Inner products with G leave out the rollout they are of; what remains of the bias falls as
1/n.

N prompts · n rollouts of each
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from valuegrad.finite_groups import GroupAdvantages


def two_valued_costate_error(
    gram: Float[Tensor, "N n n"],
    hit: Float[Tensor, "N n"],
    probability: Float[Tensor, " N"],
    group: GroupAdvantages,
) -> Float[Tensor, " N"]:
    """Λ_sample where a reward is the higher of the group's two with an (estimated) probability p.

    G = Δ p (1 − p) (m₁ − m₀), m_r the mean score vector given the reward and Δ the rewards'
    difference. ‖m₁ − m₀‖² is estimated
    without bias given the count k of successes, from 2 of each value on. Counts below that give 0,
    and the others weigh c(k) / (p (1 − p))², c(k) the unbiased estimate of (p (1 − p))²: so the
    mean over counts comes out right, as it does for Σ.
    """
    n, missed = hit.shape[1], 1 - hit
    k, step = hit.sum(1), group.values[1] - group.values[0]
    known = (k >= 2) & (n - k >= 2)
    others = gram * (1 - torch.eye(n, dtype=gram.dtype))
    # Mean inner product of each rollout with the others that earned 1, and with those that did not.
    with_hits = (others @ hit[:, :, None])[:, :, 0] / (k[:, None] - hit).clamp(min=1)
    with_misses = (others @ missed[:, :, None])[:, :, 0] / (n - k[:, None] - missed).clamp(min=1)

    def mean(values: Tensor, among: Tensor) -> Tensor:
        return (values * among).sum(1) / among.sum(1).clamp(min=1)

    distance = mean(with_hits, hit) - 2 * mean(with_misses, hit) + mean(with_misses, missed)
    spread = probability * (1 - probability)
    norm = step * spread * distance.clamp(min=0).sqrt()
    along = step * spread[:, None] * (with_hits - with_misses)
    error = _distances(gram, hit.long(), group, along, norm.square())
    expected = probability * mean(error, hit) + (1 - probability) * mean(error, missed)
    ways = k * (k - 1) * (n - k) * (n - k - 1) / (n * (n - 1) * (n - 2) * (n - 3))
    weight = torch.where(known, ways / torch.where(known, spread, 1.0).square(), 0.0)
    return weight * norm * expected


def costate_error(
    gram: Float[Tensor, "N n n"],
    rewards: Float[Tensor, "N n"],
    squared: Float[Tensor, " N"],
    kinds: Int[Tensor, "N n"],
    group: GroupAdvantages,
) -> Float[Tensor, " N"]:
    """Λ_sample for rewards of any values, with ‖G‖² estimated without bias.

    ``kinds`` says which of the group's rewards each rollout earned.
    """
    n = rewards.shape[1]
    others = gram * (1 - torch.eye(n, dtype=gram.dtype))
    rest = (rewards.sum(1, keepdim=True) - rewards) / (n - 1)
    # s_i · G from the other rollouts: Σ_{j≠i} (r_j − mean of those) s_i·s_j / (n − 2).
    along = ((others @ rewards[:, :, None])[:, :, 0] - rest * others.sum(2)) / (n - 2)
    distances = _distances(gram, kinds, group, along, squared)
    return squared.clamp(min=0).sqrt() * distances.mean(1)


def _distances(
    gram: Tensor, kinds: Tensor, group: GroupAdvantages, along: Tensor, squared: Tensor
) -> Tensor:
    """E‖Â_i s_i − G‖ of each rollout over its group, from s_i·s_i, s_i·G and ‖G‖²."""
    own, total = gram.diagonal(dim1=1, dim2=2), torch.zeros_like(along)
    for advantage, weight in zip(group.nodes.unbind(2), group.weights.unbind(2), strict=True):
        given = advantage.gather(1, kinds)
        found = given.square() * own - 2 * given * along + squared[:, None]
        total += weight.gather(1, kinds) * found.clamp(min=0).sqrt()
    return total
