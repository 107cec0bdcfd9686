"""The probe step of completions of any length: the update by teacher forcing or from rollouts.

N prompts · G completions of each
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.credit.answer_gradients import log_answer_values
from valuegrad.credit.scores import prompt_state_scores
from valuegrad.credit.value_gradient import FORWARD_TOKENS
from valuegrad.impact.probe import (
    Update,
    add_gradients,
    moving_parameters,
    own_slopes,
    whole_update,
)
from valuegrad.methods import Method, advantages, population_advantages, zero_spread
from valuegrad.model.policy import Policy, logits
from valuegrad.one_token_prompts import batches
from valuegrad.prompts import CompletionPrompts
from valuegrad.sampler import Rollouts


def exact_update(policy: Policy, prompts: CompletionPrompts, method: Method) -> Update:
    """The gradient of mean_q slope_q π(y|q), slopes held fixed: no completion is sampled.

    Args:
        policy: the policy, in float32 or float64.
        prompts: with an exact reward.
        method: the critic-free method.

    Returns:
        The update. Costs a forward and a backward pass over prompts and answers.
    """
    parameters = moving_parameters(policy)
    gradients = [torch.zeros_like(p) for p in parameters]
    value = torch.empty(len(prompts), dtype=torch.float64, device=policy.device)
    for rows, log_v in log_answer_values(policy, prompts):
        here = value[rows] = log_v.detach().exp()
        slope = own_slopes(here, here * (1 - here), method)
        # ∇ slope V = slope V ∇ log V.
        add_gradients(gradients, log_v, parameters, slope * here / len(prompts))
    return whole_update(parameters, gradients, value, value * (1 - value), method)


def sampled_update(policy: Policy, drawn: Rollouts, method: Method) -> Update:
    """A method's own update from rollouts: the mean of Â_i ∇ log π(o_i|q).

    A group's mean holds the rollout's own reward, which shrinks the update of ``grpo`` and
    ``dr_grpo`` by 1 − 1/n: that is made up for, so that it is as long as `exact_update`'s.

    Args:
        policy: the policy, in float32 or float64.
        drawn: groups of 4 rollouts or more of each prompt.
        method: the critic-free method.

    Returns:
        The update. Its length is that of two independent halves' inner product, so that noise does
        not count as signal; NaN where that is negative, which noise can make it.
    """
    parameters = moving_parameters(policy)
    size = drawn.rewards.shape[1]
    halves = []
    for part in (slice(0, size // 2), slice(size // 2, size)):
        rewards = drawn.rewards[:, part]
        weight = advantages(rewards, method) / rewards.numel()
        if method in ("grpo", "dr_grpo"):
            weight *= rewards.shape[1] / (rewards.shape[1] - 1)
        gradients = [torch.zeros_like(p) for p in parameters]
        _accumulate(policy, _part(drawn, part), weight, parameters, gradients)
        halves.append(gradients)
    first, second = halves
    inner = sum(float((a.double() * b.double()).sum()) for a, b in zip(first, second, strict=True))
    mean = [a.add_(b).div_(2) for a, b in zip(first, second, strict=True)]
    norm = inner**0.5 if inner >= 0 else float("nan")
    return Update(parameters, mean, norm)


def reweighted_gradients(
    policy: Policy, drawn: Rollouts, method: Method, parameters: list[Tensor]
) -> list[Tensor]:
    """The gradients of a method's update where the parameters have moved, from earlier rollouts.

    Each rollout weighs as much more as it has become more likely, its group's weights adding up to
    1, and the advantages take the mean and deviation with these weights.

    Args:
        policy: the policy, moved a little from where it drew them.
        drawn: the rollouts.
        method: the critic-free method.
        parameters: what the update moves.

    Returns:
        One gradient a parameter. At the place of the draws those of `sampled_update`, but for their
        length, which Adam's step does not see.
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
    gradients = [torch.zeros_like(p) for p in parameters]
    weight = share * signal / len(rewards)
    _accumulate(policy, _part(drawn, slice(None)), weight, parameters, gradients)
    return gradients


def _part(drawn: Rollouts, part: slice) -> list[list[tuple[tuple[int, ...], int]]]:
    """Sequence and prefix length of some rollouts of each group."""
    return [
        [((*prefix, *completion), len(prefix)) for completion in group[part]]
        for prefix, group in zip(drawn.prefixes, drawn.completions, strict=True)
    ]


def _accumulate(
    policy: Policy,
    groups: list[list[tuple[tuple[int, ...], int]]],
    weight: Float[Tensor, "N G"],
    parameters: list[Tensor],
    gradients: list[Tensor],
) -> None:
    flat = [rollout for group in groups for rollout in group]
    weights = weight.flatten().tolist()
    # A rollout without advantage moves nothing and needs no pass.
    used = [i for i, w in enumerate(weights) if w != 0]
    for rows in batches([len(flat[i][0]) for i in used], FORWARD_TOKENS):
        picked = [flat[used[row]] for row in rows]
        longest = max(len(tokens) for tokens, _ in picked)
        ids = torch.zeros(len(picked), longest, dtype=torch.long)
        scale = torch.zeros(len(picked), longest - 1, dtype=torch.float64)
        for i, (row, (tokens, start)) in enumerate(zip(rows, picked, strict=True)):
            ids[i, : len(tokens)] = torch.tensor(tokens)
            scale[i, start - 1 : len(tokens) - 1] = weights[used[row]]
        ids, scored = ids.to(policy.device), (scale != 0).to(policy.device)
        states = policy.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        log_p = logits(policy, states[:, :-1][scored]).log_softmax(1)
        chosen = log_p.gather(1, ids[:, 1:][scored][:, None])[:, 0]
        cotangent = scale.to(policy.device)[scored].to(chosen)
        add_gradients(gradients, chosen, parameters, cotangent)
