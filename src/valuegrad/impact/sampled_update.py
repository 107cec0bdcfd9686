"""A method's update from rollouts: the mean of Ā_i w(T_i) ∇ log π(o_i|q), re-weighted after a move.

N prompts · n completions of each · G of them in a group · Q prompts in a batch
"""

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import hypergeom
from torch import Tensor

from valuegrad.budget import Budget, Method
from valuegrad.credit.scores import prompt_state_scores
from valuegrad.finite_groups import group_advantages
from valuegrad.impact.outcomes import levels, nearest, reward_mass
from valuegrad.impact.update import Update, length, moving_parameters, weighted_gradients
from valuegrad.methods import PER_LENGTH, advantages, token_weight, zero_spread
from valuegrad.model.policy import Policy
from valuegrad.sampler import Rollouts

SPLITS = 64  # drawn groups that hold a rollout, about, where groups are not counted
ELEMENTS = 2**22  # of draws × rollouts held at once


def update(
    policy: Policy,
    drawn: Rollouts,
    method: Method,
    group_size: int = Budget.group_size,
    prompts_per_update: int = Budget.prompts_per_update,
    max_tokens: int = 1,
) -> Update:
    """The expected gradient of a method's update, without bias, where the policy drew the rollouts.

    The length is that of two independent halves' inner product, so that noise does not count as
    signal; NaN where that is negative, which noise can make it, and where half of the rollouts are
    no group.
    """
    parameters = moving_parameters(policy)
    size = drawn.rewards.shape[1]
    whole = method in PER_LENGTH and size < 2 * group_size
    halves = [slice(0, size)] if whole else [slice(0, size // 2), slice(size // 2, size)]
    weights = token_weight(method, _lengths(drawn), max_tokens) / len(drawn.rewards)
    found = []
    for part in halves:
        rewards = drawn.rewards[:, part]
        weight = torch.zeros_like(drawn.rewards)
        mean = mean_advantages(rewards, method, group_size, prompts_per_update)
        weight[:, part] = mean * weights[:, part] / rewards.shape[1]
        found.append(_gradients(policy, drawn, weight, parameters))
    if whole:
        return Update(parameters, found[0], float("nan"))
    pairs = list(zip(*found, strict=True))
    inner = sum(float((a.double() * b.double()).sum()) for a, b in pairs)
    mean_gradients = [a.add_(b).div_(2) for a, b in pairs]
    return Update(parameters, mean_gradients, inner**0.5 if inner >= 0 else float("nan"))


def mean_advantages(
    rewards: Float[Tensor, "N n"],
    method: Method,
    group_size: int = Budget.group_size,
    prompts_per_update: int = Budget.prompts_per_update,
) -> Float[Tensor, "N n"]:
    """Â of each rollout, the mean over the groups of a size that can be made of those drawn.

    Every group of G of them is a group that RL might have drawn, so that the mean of Â_i f(o_i)
    has the expectation that it has in RL, for any f. Groups of two rewards are counted, others
    drawn; so are the batches of ``ppo``.
    """
    r, n = rewards.double(), rewards.shape[1]
    if method == "reinforce":
        return r
    others = (r.sum(1, keepdim=True) - r) / (n - 1)
    if method in ("rloo", "dr_grpo"):
        centred = torch.where(zero_spread(r)[:, None], 0.0, r - others)
        return centred * (1 - 1 / group_size if method == "dr_grpo" else 1.0)
    if method == "grpo" and len(values := torch.unique(r)) <= 2:
        return _counted(r, values, group_size)
    return _over_draws(r, method, group_size, prompts_per_update if method == "ppo" else 1)


def _counted(r: Tensor, values: Tensor, group_size: int) -> Tensor:
    """Of two rewards by how many of a group's others earn the higher one: hypergeometric."""
    n, others = r.shape[1], group_size - 1
    hit = (r == values[-1]).long()
    j = np.arange(group_size)
    # Chances of j others with the higher reward, and Â of a rollout with either beside them.
    chance = hypergeom.pmf(j, n - 1, np.arange(n)[:, None], others)  # (n, G) by how many there are
    high, low = float(values[-1]), float(values[0])
    group = torch.tensor([[low] * (others - i) + [high] * i for i in j], dtype=torch.float64)
    own = torch.tensor([low, high], dtype=torch.float64)
    known = [advantages(torch.cat((x.expand(group_size, 1), group), 1), "grpo")[:, 0] for x in own]
    mean = torch.from_numpy(chance) @ torch.stack(known, 1)  # (n, 2)
    return mean[hit.sum(1, keepdim=True) - hit, hit]


def _over_draws(r: Tensor, method: Method, group_size: int, prompts: int) -> Tensor:
    """Of groups, or for ppo of batches, that are drawn: every rollout in as many, about."""
    (count, n), generator = r.shape, torch.Generator().manual_seed(0)
    total = torch.zeros_like(r)
    if method == "grpo":
        order = torch.rand(SPLITS, n, generator=generator).argsort(1)
        groups = order[:, : n - n % group_size].reshape(-1, group_size)
        found = advantages(r[:, groups].flatten(0, 1), "grpo").view(count, -1)
        total.index_add_(1, groups.flatten(), found)
        return total * (n / groups.numel())
    draws = -(-SPLITS * count * n // (prompts * group_size))
    for part in torch.split(torch.arange(draws), max(1, ELEMENTS // (max(prompts, count) * n))):
        which = torch.randint(count, (len(part), prompts, 1), generator=generator)
        each = torch.rand(len(part), count, n, generator=generator).argsort(2)
        order = each.gather(1, which.expand(-1, -1, n))
        # A prompt that comes twice in a batch has other rollouts there, where there are enough.
        before = (which == which.mT).tril(-1).sum(2, keepdim=True)
        columns = order.gather(2, (before * group_size + torch.arange(group_size)) % n)
        batch = r[which, columns].flatten(1)
        # A batch is normalised as a whole, as a group is by grpo.
        found = advantages(batch, "grpo")
        total.index_put_((which, columns), found.view(columns.shape), accumulate=True)
    return total * (count * n / (draws * prompts * group_size))


def reweighted_update(
    policy: Policy,
    drawn: Rollouts,
    method: Method,
    group_size: int = Budget.group_size,
    prompts_per_update: int = Budget.prompts_per_update,
    max_tokens: int = 1,
) -> Update:
    """The update where the parameters have moved a little from where the policy drew the rollouts.

    Each rollout weighs as much more as it has become more likely, its group's weights adding up to
    1, and the advantages are those expected where rewards have these probabilities.
    """
    with torch.no_grad():
        _, logp = prompt_state_scores(policy, drawn, "final")
    share = (logp.cpu() - drawn.logp).softmax(1)
    values = levels(drawn.rewards)
    kinds = nearest(values, drawn.rewards)
    mass = reward_mass(values, kinds, share)
    group = group_advantages(values, mass, method, group_size, prompts_per_update)
    weight = share * group.expected.gather(1, kinds) / len(share)
    weight *= token_weight(method, _lengths(drawn), max_tokens)
    parameters = moving_parameters(policy)
    gradients = _gradients(policy, drawn, weight, parameters)
    return Update(parameters, gradients, length(gradients))


def _lengths(drawn: Rollouts) -> Tensor:
    return torch.tensor([[len(c) for c in group] for group in drawn.completions])


def _gradients(
    policy: Policy, drawn: Rollouts, weight: Float[Tensor, "N n"], parameters: list[Tensor]
) -> list[Tensor]:
    return weighted_gradients(policy, drawn.sequences, drawn.lengths, weight.flatten(), parameters)
