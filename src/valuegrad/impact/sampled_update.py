"""A method's update from rollouts: the mean of Â_i ∇ log π(o_i|q), and after a move re-weighted.

N prompts · G completions of each
"""

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.budget import Method
from valuegrad.credit.scores import prompt_state_scores
from valuegrad.impact.update import Update, add_gradients, length, moving_parameters
from valuegrad.methods import advantages, population_advantages, zero_spread
from valuegrad.model.batches import scored_batches
from valuegrad.model.policy import Policy, logits
from valuegrad.sampler import Rollouts


def update(policy: Policy, drawn: Rollouts, method: Method) -> Update:
    """The update from groups of 4 rollouts or more, where the policy drew them.

    A group's mean holds the rollout's own reward, which shrinks ``grpo`` and ``dr_grpo`` by
    1 − 1/n: that is made up for. The length is that of two independent halves' inner product, so
    that noise does not count as signal; NaN where that is negative, which noise can make it.
    """
    parameters = moving_parameters(policy)
    size = drawn.rewards.shape[1]
    halves = []
    for part in (slice(0, size // 2), slice(size // 2, size)):
        rewards = drawn.rewards[:, part]
        weight = torch.zeros_like(drawn.rewards)
        weight[:, part] = advantages(rewards, method) / rewards.numel()
        if method in ("grpo", "dr_grpo"):
            weight *= rewards.shape[1] / (rewards.shape[1] - 1)
        halves.append(_weighted_gradients(policy, drawn, weight, parameters))
    first, second = halves
    inner = sum(float((a.double() * b.double()).sum()) for a, b in zip(first, second, strict=True))
    mean = [a.add_(b).div_(2) for a, b in zip(first, second, strict=True)]
    return Update(parameters, mean, inner**0.5 if inner >= 0 else float("nan"))


def reweighted_update(policy: Policy, drawn: Rollouts, method: Method) -> Update:
    """The update where the parameters have moved a little from where the policy drew the rollouts.

    Each rollout weighs as much more as it has become more likely, its group's weights adding up to
    1, and the advantages take the mean and deviation with these weights.
    """
    with torch.no_grad():
        _, logp = prompt_state_scores(policy, drawn, "final")
    share = (logp.cpu() - drawn.logp).softmax(1)
    rewards, size = drawn.rewards, drawn.rewards.shape[1]
    mean = (share * rewards).sum(1)
    variance = (share * (rewards - mean[:, None]).square()).sum(1) * size / (size - 1)
    population = population_advantages(mean, variance, method)
    signal = population.slope[:, None] * (rewards - population.baseline[:, None])
    if method not in ("ppo", "reinforce"):
        signal = torch.where(zero_spread(rewards)[:, None], 0.0, signal)
    parameters = moving_parameters(policy)
    weight = share * signal / len(rewards)
    gradients = _weighted_gradients(policy, drawn, weight, parameters)
    return Update(parameters, gradients, length(gradients))


def _weighted_gradients(
    policy: Policy, drawn: Rollouts, weight: Float[Tensor, "N G"], parameters: list[Tensor]
) -> list[Tensor]:
    """Σ_i w_i ∇ log π(o_i|q), one gradient a parameter."""
    gradients = [torch.zeros_like(p) for p in parameters]
    weights = weight.flatten()
    # A rollout without advantage moves nothing and needs no pass.
    used = weights.nonzero()[:, 0].tolist()
    sequences, lengths = drawn.sequences, drawn.lengths
    chosen, starts = [sequences[i] for i in used], [lengths[i] for i in used]
    scale = weights[used].to(policy.device)
    for batch in scored_batches(policy, chosen, starts):
        log_p = logits(policy, batch.final_states(policy)).log_softmax(1)
        drawn_logp = log_p.gather(1, batch.target[:, None])[:, 0]
        cotangent = scale[batch.rows][batch.row].to(drawn_logp)
        add_gradients(gradients, drawn_logp, parameters, cotangent)
    return gradients
