"""Value gradients of any completions (Eqs. 9, 12; correction B): all enumerated, or sampled.

G_t = ∂V_t/∂h_t with V_t(h) = E[R | h_t = h, the rest of s_t fixed]. Enumeration differentiates
Σ_o π(o) R(o) itself; the sampled estimate averages (R − b) ∂/∂h Σ log π: the same mean.

N completions · T tokens of each · D width · V vocabulary
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from valuegrad.errors import UserError
from valuegrad.model.policy import Policy, Site, logits
from valuegrad.model.sites import check_site, shared_leaf

MOST_COMPLETIONS = 2**22


@dataclass(frozen=True, eq=False)
class Enumeration:
    """All V^T completions of a prefix with their probabilities; from `enumerate_completions`."""

    tokens: Int[Tensor, "N T"]  # in lexicographic order
    probability: Float[Tensor, " N"]  # π(o | prefix) of each, in the policy's dtype
    state: Float[Tensor, " D"]  # the hidden vector that they all start from; their graph's leaf


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
        `tokens` (N, T) in lexicographic order, `probability` (N,) of each, and the `state` (D,) in
        which the probabilities are differentiable.

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
        got = f"{length} at a vocabulary of {vocabulary}"
        wanted = f"1 or more and at most {MOST_COMPLETIONS} completions"
        raise UserError("length", got, wanted, "lower it, or sample")
    if len(prefix) + length > policy.context + 1:
        got = f"{len(prefix)} tokens and {length} to come"
        raise UserError("prefix", got, f"at most {policy.context + 1}", "shorten it")
    every = torch.cartesian_prod(*[torch.arange(vocabulary)] * length).view(-1, length)
    every = every.to(policy.device)
    heads = every[::vocabulary, :-1]
    ids = torch.cat((torch.tensor(prefix).to(heads).expand(len(heads), -1), heads), 1)
    last = len(prefix) - 1
    with shared_leaf(policy, site, last) as leaves:
        final = policy.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        scored = logits(policy, final[:, last:]).log_softmax(-1)
    head_logp = scored[:, :-1].gather(2, ids[:, last + 1 :, None]).sum((1, 2))
    logp = (head_logp[:, None] + scored[:, -1]).flatten()
    return Enumeration(every, logp.exp(), leaves[0])


def enumerated_value_gradient(
    enumeration: Enumeration, rewards: Float[Tensor, " N"]
) -> Float[Tensor, " D"]:
    """G = ∂/∂h Σ_o π(o) R(o) (Eq. 12), by differentiation of the enumerated value.

    Args:
        enumeration: from `enumerate_completions`.
        rewards: R of every completion, in the same order, reward units.

    Returns:
        G at the enumeration's site, in reward units per unit of the hidden state.

    Example:
        ``enumerated_value_gradient(found, reward_of(found.tokens))``
    """
    value = (enumeration.probability * rewards).sum()
    (gradient,) = torch.autograd.grad(value, enumeration.state, retain_graph=True)
    return gradient


def sampled_value_gradient(
    scores: Float[Tensor, "N D"], rewards: Float[Tensor, " N"]
) -> Float[Tensor, " D"]:
    """An unbiased estimate of G from rollouts of one state (Eq. 12): mean of (R_i − b_i) s_i.

    The baseline b_i is the mean reward of the other rollouts, which does not depend on rollout i.

    Args:
        scores: ∂/∂h Σ_k log π(o_k|s_k) of each rollout, as from `prompt_state_scores`.
        rewards: R of each rollout, reward units.

    Returns:
        The estimate, in reward units per unit of the hidden state; for its squared norm use
        `squared_norm`, not the norm of this.

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
