"""Value gradients G = ∂V/∂h in closed form for one-token answers (Eq. 8, theory §2).

V = Σ_a p_a r_a at a prompt's last token, so at ``"final"`` G = Wᵀ(p ⊙ (r − p·r)); at a lower site
it is Jᵀ times that, J the Jacobian from the site to ``"final"`` at the same position: no other
position scores the answer.

B prompts · D width · V vocabulary
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from valuegrad.errors import UserError
from valuegrad.model.batches import equal_lengths, head_chunks, probabilities, prompt_states
from valuegrad.model.policy import Policy, Site
from valuegrad.model.sites import check_site, site_to_final
from valuegrad.prompts import Prompts, tokenise
from valuegrad.tasks.task import Task


def value_gradient(
    policy: Policy, task: Task | Prompts, site: Site = "final"
) -> Float[Tensor, "N D"]:
    """The exact value gradient at each held-out prompt's last token (Eq. 8).

    Args:
        policy: the policy.
        task: a task with one-token answers, or prompts of one from `tokenise`.
        site: ``"embedding"``, a block's number or ``"final"``.

    Returns:
        One row a prompt, in reward units per unit of the hidden state.

    Raises:
        UserError: no such site, or answers that are not one token.

    Example:
        ``G = value_gradient(load_policy("runs/step100"), label_copy())``
    """
    site = check_site(policy, site)
    prompts = one_token_prompts(policy, task)
    states = prompt_states(policy, prompts.tokens)
    result = torch.empty_like(states)
    with torch.no_grad():
        for rows in head_chunks(policy, len(prompts)):
            p, rewards = probabilities(policy, states[rows]), prompts.reward_table(policy, rows)
            result[rows] = final_value_gradient(policy.head, p, rewards)
    if site == "final":
        return result
    for rows in equal_lengths(prompts.tokens):
        leaf, final = site_to_final(policy, [prompts.tokens[row] for row in rows], site)
        result[rows] = torch.autograd.grad(final, leaf, result[rows])[0]
    return result


def one_token_prompts(policy: Policy, task: Task | Prompts) -> Prompts:
    """Prompts whose completions are one token: a task's held-out ones, or those given."""
    prompts = tokenise(policy, task).evaluation if isinstance(task, Task) else task
    if prompts.kind != "one token":
        got = "answers of several tokens" if prompts.exact else "completions of any length"
        raise UserError("task", got, "answers of one token", "measure it from rollouts")
    return prompts


def final_value_gradient(
    head: Float[Tensor, "V D"], p: Float[Tensor, "B V"], rewards: Float[Tensor, "B V"]
) -> Float[Tensor, "B D"]:
    """G at ``"final"``: Wᵀ(p ⊙ (r − p·r)), in the head's dtype."""
    centred = rewards - (p * rewards).sum(1, keepdim=True)
    return (p * centred).to(head.dtype) @ head


def indicator_value_gradient(
    head: Float[Tensor, "V D"],
    p: Float[Tensor, "B V"],
    answers: Int[Tensor, " B"],
    mean_row: Float[Tensor, "B D"],
) -> Float[Tensor, "B D"]:
    """As `final_value_gradient` where one token y alone earns 1: p_y (W_y − w̄), w̄ = p W."""
    return p.gather(1, answers[:, None]).to(head.dtype) * (head[answers] - mean_row)


@torch.no_grad()
def site_jacobian(
    policy: Policy, prompts: Sequence[Sequence[int]], site: Site
) -> Float[Tensor, "B D E"]:
    """∂h_final/∂h_site at the last token of prompts of one length, one backward pass a dimension.

    One matrix a prompt, rows for the final state.
    """
    leaf, final = site_to_final(policy, prompts, site)
    basis = torch.eye(final.shape[1], dtype=final.dtype, device=final.device)
    rows_of_j = [
        torch.autograd.grad(final, leaf, unit.expand_as(final), retain_graph=True)[0]
        for unit in basis
    ]
    return torch.stack(rows_of_j, dim=1)
