"""Value gradients G = ∂V/∂h in closed form for one-token answers (theory §2).

V = Σ_a p_a r_a at a prompt's last token, so at ``"final"`` G = Wᵀ(p ⊙ (r − p·r)); at a lower site
it is Jᵀ times that, J the Jacobian from the site to ``"final"`` at the same position: no other
position scores the answer.

B prompts · D width · V vocabulary
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from valuegrad.model.policy import Policy, Site, final_states, logits
from valuegrad.model.sites import check_site, site_to_final
from valuegrad.one_token_prompts import OneTokenPrompts, batches, one_token_prompts
from valuegrad.tasks.task import Task

FORWARD_TOKENS = 8192
HEAD_ELEMENTS = 2**21


def value_gradient(policy: Policy, task: Task, site: Site = "final") -> Float[Tensor, "N D"]:
    """The exact value gradient at each held-out prompt's last token.

    Args:
        policy: the policy.
        task: a task with one-token answers.
        site: ``"embedding"``, a block's number or ``"final"``.

    Returns:
        One row a held-out prompt, in reward units per unit of the hidden state.

    Raises:
        UserError: no such site, or answers that are not one token.

    Example:
        ``G = value_gradient(load_policy("runs/step100"), label_copy())``
    """
    site = check_site(policy, site)
    prompts = one_token_prompts(policy, task.evaluation, task.reward)
    states = prompt_states(policy, prompts)
    result = torch.empty_like(states)
    for rows in head_chunks(policy, len(prompts)):
        p = probabilities(policy, states[rows])
        result[rows] = final_value_gradient(policy.head, p, prompts.reward_table(rows))
    if site == "final":
        return result
    for rows in equal_lengths(prompts):
        leaf, final = site_to_final(policy, [prompts.tokens[row] for row in rows], site)
        result[rows] = torch.autograd.grad(final, leaf, result[rows])[0]
    return result


def final_value_gradient(
    head: Float[Tensor, "V D"], p: Float[Tensor, "B V"], rewards: Float[Tensor, "B V"]
) -> Float[Tensor, "B D"]:
    """G at ``"final"``: Wᵀ(p ⊙ (r − p·r)).

    Args:
        head: the output head W.
        p: next-token probabilities.
        rewards: of every token, reward units.

    Returns:
        One row a prompt, in the head's dtype.

    Example:
        >>> p = torch.tensor([[0.5, 0.5]])
        >>> final_value_gradient(torch.eye(2), p, torch.tensor([[1.0, 0.0]]))
        tensor([[ 0.2500, -0.2500]])
    """
    centred = rewards - (p * rewards).sum(1, keepdim=True)
    return (p * centred).to(head.dtype) @ head


def indicator_value_gradient(
    head: Float[Tensor, "V D"],
    p: Float[Tensor, "B V"],
    answers: Int[Tensor, " B"],
    mean_row: Float[Tensor, "B D"],
) -> Float[Tensor, "B D"]:
    """As `final_value_gradient` where one token y alone earns 1: p_y (W_y − w̄), no product with W.

    Args:
        head: the output head W.
        p: next-token probabilities.
        answers: y of each prompt.
        mean_row: w̄ = Σ_a p_a W_a.

    Returns:
        One row a prompt, in the head's dtype.

    Example:
        >>> p, head = torch.tensor([[0.5, 0.5]]), torch.eye(2)
        >>> indicator_value_gradient(head, p, torch.tensor([0]), p @ head)
        tensor([[ 0.2500, -0.2500]])
    """
    return p.gather(1, answers[:, None]).to(head.dtype) * (head[answers] - mean_row)


def probabilities(policy: Policy, states: Float[Tensor, "B D"]) -> Float[Tensor, "B V"]:
    """Next-token probabilities at given final states: float64, from logits in the model's dtype."""
    return logits(policy, states).double().softmax(1)


@torch.no_grad()
def prompt_states(policy: Policy, prompts: OneTokenPrompts) -> Float[Tensor, "N D"]:
    """The ``"final"`` state of every prompt: one forward pass over them, without gradients."""
    lengths = [len(tokens) for tokens in prompts.tokens]
    result = torch.empty(
        len(prompts), policy.head.shape[1], dtype=policy.head.dtype, device=policy.device
    )
    for rows in batches(lengths, FORWARD_TOKENS):
        result[rows] = final_states(policy, [prompts.tokens[row] for row in rows])
    return result


@torch.no_grad()
def site_jacobian(
    policy: Policy, prompts: OneTokenPrompts, rows: list[int], site: Site
) -> Float[Tensor, "B D E"]:
    """∂h_final/∂h_site at the last token of prompts of one length, one backward pass a dimension.

    Args:
        policy: the policy.
        prompts: the prompts.
        rows: which of them, all of one length.
        site: ``"embedding"`` or a block's number.

    Returns:
        One D × D matrix a prompt, rows for the final state.
    """
    leaf, final = site_to_final(policy, [prompts.tokens[row] for row in rows], site)
    basis = torch.eye(final.shape[1], dtype=final.dtype, device=final.device)
    rows_of_j = [
        torch.autograd.grad(final, leaf, unit.expand_as(final), retain_graph=True)[0]
        for unit in basis
    ]
    return torch.stack(rows_of_j, dim=1)


def head_chunks(policy: Policy, count: int) -> list[list[int]]:
    """Row numbers in chunks small enough for a few arrays of chunk × vocabulary."""
    size = max(1, HEAD_ELEMENTS // policy.head.shape[0])
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


def equal_lengths(prompts: OneTokenPrompts) -> list[list[int]]:
    """Row numbers grouped by the length of the prompt, at most `FORWARD_TOKENS` tokens a group."""
    groups: dict[int, list[int]] = {}
    for row, tokens in enumerate(prompts.tokens):
        groups.setdefault(len(tokens), []).append(row)
    return [
        rows[start : start + max(1, FORWARD_TOKENS // length)]
        for length, rows in groups.items()
        for start in range(0, len(rows), max(1, FORWARD_TOKENS // length))
    ]
