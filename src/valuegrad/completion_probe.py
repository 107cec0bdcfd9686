"""The probe step of completions of any length: the update by teacher forcing or from rollouts.

N prompts · G completions of each
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.advantages import Method, advantages, population_advantages
from valuegrad.credit.exact_answers import answer_values, log_answer_values
from valuegrad.credit.value_gradient import FORWARD_TOKENS
from valuegrad.policy import Policy, logits
from valuegrad.probe import Update, add_gradients, length, moving_parameters
from valuegrad.rollouts import Rollouts
from valuegrad.tasks.completion_prompts import CompletionPrompts
from valuegrad.tasks.one_token import batches


def exact_update(policy: Policy, prompts: CompletionPrompts, method: Method) -> Update:
    """The gradient of mean_q slope_q π(y|q), slopes held fixed: no completion is sampled.

    Args:
        policy: the policy, in float32 or float64.
        prompts: with an exact reward.
        method: the critic-free method.

    Returns:
        The update. Costs two forward passes and a backward pass over prompts and answers.
    """
    parameters = moving_parameters(policy)
    gradients = [torch.zeros_like(p) for p in parameters]
    value = answer_values(policy, prompts)
    slope = population_advantages(value, value * (1 - value), method).slope
    # ∇ slope V = slope V ∇ log V.
    weight = slope * value / len(prompts)
    for rows, log_v in log_answer_values(policy, prompts):
        add_gradients(gradients, log_v, parameters, weight[rows])
    return Update(parameters, gradients, length(gradients), value)


def sampled_update(policy: Policy, drawn: Rollouts, method: Method) -> Update:
    """A method's own update from rollouts: the mean of Â_i ∇ log π(o_i|q).

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
        weight = advantages(drawn.rewards[:, part], method) / drawn.rewards[:, part].numel()
        gradients = [torch.zeros_like(p) for p in parameters]
        _accumulate(policy, _part(drawn, part), weight, parameters, gradients)
        halves.append(gradients)
    first, second = halves
    inner = sum(float((a.double() * b.double()).sum()) for a, b in zip(first, second, strict=True))
    mean = [a.add_(b).div_(2) for a, b in zip(first, second, strict=True)]
    norm = inner**0.5 if inner >= 0 else float("nan")
    return Update(parameters, mean, norm, drawn.rewards.mean(1).to(policy.device))


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
