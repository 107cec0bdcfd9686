"""Value gradients of completions of any length: by enumeration of all of them, and sampled.

G_t = ∂V_t/∂h_t with V_t(h) = E[R | h_t = h, the rest of s_t fixed] (theory §2). Enumeration
differentiates Σ_o π(o) R(o) itself; the sampled estimate averages (R − b) ∂/∂h Σ log π, which
identity B says has the same mean.

N completions · T tokens of each · D width · V vocabulary
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from valuegrad.credit.completions import completions
from valuegrad.credit.costates import costates_at
from valuegrad.errors import UserError
from valuegrad.model.policy import Policy, Site, logits
from valuegrad.model.sites import check_site, shared_leaf

MOST_COMPLETIONS = 2**22


@dataclass(frozen=True, eq=False)
class Enumeration:
    """All V^T completions of a prefix, with their probabilities; made by `enumerate_completions`.

    Attributes:
        tokens: every completion, in lexicographic order.
        probability: π(o | prefix) of each, float64 where the policy is.
        state: the hidden vector at the site that they all start from; their graph's leaf.
    """

    tokens: Int[Tensor, "N T"]
    probability: Float[Tensor, " N"]
    state: Float[Tensor, " D"]


def enumerate_completions(
    policy: Policy, prefix: Sequence[int], length: int, site: Site = "final"
) -> Enumeration:
    """The distribution over all completions of a length, as a function of one hidden vector.

    Args:
        policy: the policy; small, for there are V^T completions.
        prefix: the state s_t: prompt and completion so far.
        length: T, tokens of a completion.
        site: where the hidden vector h_t of the prefix's last token lives.

    Returns:
        The enumeration; its probabilities are differentiable in its state.

    Raises:
        UserError: more than 4,194,304 completions, an empty prefix, or one that fills the context.

    Example:
        ``enumerate_completions(policy, [3, 1], 2).probability.sum()  # 1``
    """
    site = check_site(policy, site)
    vocabulary = policy.head.shape[0]
    if not prefix:
        raise UserError("prefix", "no tokens", "at least one", "pass the prompt")
    if length < 1 or vocabulary**length > MOST_COMPLETIONS:
        raise UserError(
            "length",
            f"{length} at a vocabulary of {vocabulary}",
            f"1 or more and at most {MOST_COMPLETIONS} completions",
            "lower it, or sample",
        )
    if len(prefix) + length > policy.context + 1:
        raise UserError(
            "prefix",
            f"{len(prefix)} tokens and {length} to come",
            f"at most {policy.context + 1}",
            "shorten it",
        )
    heads = list(itertools.product(range(vocabulary), repeat=length - 1))
    ids = torch.tensor([[*prefix, *head] for head in heads], device=policy.device)
    with shared_leaf(policy, site, len(prefix) - 1) as leaves:
        final = policy.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        if site == "final":
            state = final[0, len(prefix) - 1].detach().requires_grad_()
            final = final.detach().clone()
            final[:, len(prefix) - 1] = state
        else:
            (state,) = leaves
        scored = logits(policy, final[:, len(prefix) - 1 :]).log_softmax(-1)
    head_logp = scored.new_zeros(len(heads))
    for k in range(length - 1):
        head_logp = head_logp + scored[:, k].gather(1, ids[:, len(prefix) + k, None])[:, 0]
    logp = (head_logp[:, None] + scored[:, -1]).flatten()
    every = torch.tensor(list(itertools.product(range(vocabulary), repeat=length)))
    return Enumeration(every.to(policy.device), logp.exp(), state)


def enumerated_value_gradient(
    enumeration: Enumeration, rewards: Float[Tensor, " N"]
) -> Float[Tensor, " D"]:
    """G = ∂/∂h Σ_o π(o) R(o), by differentiation of the enumerated value.

    Args:
        enumeration: from `enumerate_completions`.
        rewards: R of every completion, in the same order.

    Returns:
        G at the enumeration's site, in reward units per unit of the hidden state.

    Example:
        ``enumerated_value_gradient(found, reward_of(found.tokens))``
    """
    value = (enumeration.probability * rewards).sum()
    (gradient,) = torch.autograd.grad(value, enumeration.state, retain_graph=True)
    return gradient


def rollout_scores(
    policy: Policy, prefix: Sequence[int], tokens: Int[Tensor, "N T"], site: Site = "final"
) -> Float[Tensor, "N D"]:
    """Score vectors ∂/∂h Σ_k log π(o_k|s_k) of completions that start from one state.

    Args:
        policy: the policy.
        prefix: the state's tokens; h is at its last one.
        tokens: the completions.
        site: where h lives.

    Returns:
        One score vector a completion: the costate of advantage 1.

    Raises:
        UserError: as `costates`.

    Example:
        ``squared_norm(rollout_scores(policy, prompt, tokens), rewards)``
    """
    sequences = [[*prefix, *completion] for completion in tokens.tolist()]
    ones = torch.ones(len(sequences), dtype=policy.head.dtype)
    batch = completions(policy, sequences, len(prefix), ones)
    return costates_at(policy, batch, (site,), split=False)[check_site(policy, site)].total[:, 0]


def sampled_value_gradient(
    scores: Float[Tensor, "N D"], rewards: Float[Tensor, " N"]
) -> Float[Tensor, " D"]:
    """An unbiased estimate of G from rollouts of one state: mean of (R_i − b_i) s_i.

    The baseline b_i is the mean reward of the other rollouts, which does not depend on rollout i.

    Args:
        scores: from `rollout_scores`.
        rewards: R of each rollout.

    Returns:
        The estimate; for its squared norm use `squared_norm`, not the norm of this.

    Raises:
        UserError: fewer than 2 rollouts.

    Example:
        >>> sampled_value_gradient(torch.tensor([[1.0], [-1.0]]), torch.tensor([1.0, 0.0]))
        tensor([1.])
    """
    n = len(rewards)
    if n < 2:
        raise UserError("rewards", f"{n} rollouts", "at least 2", "draw more rollouts")
    # R_i − mean of the others = (R_i − mean) n / (n − 1).
    centred = (rewards - rewards.mean()) * n / (n - 1)
    return (centred.to(scores.dtype)[:, None] * scores).mean(0)
