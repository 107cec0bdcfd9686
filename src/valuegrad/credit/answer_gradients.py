"""Values and value gradients of exact answers of any length, by teacher forcing (correction F).

With reward 1 for one answer y and its stop token and 0 for everything else, V_t = π(y_≥t | s_t) at
every state along y. So G_t = V_t ∂/∂h_t log V_t, and one backward pass of log V_1 gives it at every
t, for no earlier log-probability depends on h_t. No completion is sampled. Where several tokens
stop a completion, the last factor is the sum of their probabilities.

N prompts · B of them · M scored positions · T tokens of the longest answer, stop included · D width
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from valuegrad.errors import UserError
from valuegrad.model.batches import HEAD_ELEMENTS, ScoredBatch, scored_batches
from valuegrad.model.policy import Policy, Site, logits
from valuegrad.model.sites import check_site, recorded
from valuegrad.prompts import Prompts


@dataclass(frozen=True, eq=False)
class AnswerGradients:
    """Values and value gradients along the answers; made by `answer_gradients`.

    Entries past the end of an answer are 0.

    Attributes:
        site: where the gradients live.
        value: V_t = π(y_≥t | s_t), the probability of what is left of the answer.
        gradient: G_t = ∂V_t/∂h_t, reward units per unit of the hidden state.
        final: h_1 at ``"final"``: the state of the prompt's last token.
        mask: which entries belong to an answer.
    """

    site: Site
    value: Float[Tensor, "N T"]
    gradient: Float[Tensor, "N T D"]
    final: Float[Tensor, "N D"]
    mask: Bool[Tensor, "N T"]


def answer_gradients(policy: Policy, prompts: Prompts, site: Site = "final") -> AnswerGradients:
    """The value and its gradient at every state along every prompt's answer (correction F).

    Args:
        policy: the policy.
        prompts: with an exact reward.
        site: ``"embedding"``, a block's number or ``"final"``.

    Returns:
        Values in float64 and gradients in the head's dtype; ``[:, 0]`` is the prompt's own state.

    Raises:
        UserError: no such site, or a reward that is not exact.

    Example:
        ``answer_gradients(policy, tokenise(policy, arithmetic()).evaluation).value[:, 0]``
    """
    site = check_site(policy, site)
    steps = torch.tensor([len(a) + bool(prompts.stops) for a in prompts.answers])
    mask = (torch.arange(int(steps.max())) < steps[:, None]).to(policy.device)
    log_v = torch.zeros(mask.shape, dtype=torch.float64, device=policy.device)
    gradient = policy.head.new_zeros(*mask.shape, policy.head.shape[1])
    final = policy.head.new_zeros(len(prompts), policy.head.shape[1])
    for batch in scored_answers(policy, prompts):
        with recorded(policy, [site]) as states:
            finals = batch.final_states(policy)
            log_p = _log_probabilities(policy, prompts, batch, finals)
            # The backward pass of every prompt's sum at once: no prompt sees another.
            (found,) = torch.autograd.grad(log_p.sum(), states[site])
        log_v[batch.into] = log_p.detach()
        gradient[batch.into] = found[batch.at]
        final[batch.rows] = finals.detach()[batch.step == 0]
    # log V_t = Σ_{k≥t} log π_k: a sum from the end.
    value = log_v.flip(1).cumsum(1).flip(1).exp().where(mask, 0.0)
    return AnswerGradients(site, value, gradient.mul_(value.to(gradient)[:, :, None]), final, mask)


def answer_values(policy: Policy, prompts: Prompts) -> Float[Tensor, " N"]:
    """V = π(y | q) of every prompt: its expected reward, exact, in float64."""
    value = torch.empty(len(prompts), dtype=torch.float64, device=policy.device)
    with torch.no_grad():
        for rows, log_v in log_answer_values(policy, prompts):
            value[rows] = log_v.exp()
    return value


def log_answer_values(
    policy: Policy, prompts: Prompts
) -> Iterator[tuple[list[int], Float[Tensor, " B"]]]:
    """Log V of some prompts at a time, with gradients to the parameters where these are enabled."""
    for batch in scored_answers(policy, prompts):
        log_p = _log_probabilities(policy, prompts, batch, batch.final_states(policy))
        yield batch.rows, log_p.new_zeros(len(batch.rows)).index_add(0, batch.row, log_p)


def scored_answers(policy: Policy, prompts: Prompts) -> Iterator[ScoredBatch]:
    """Batches of prompts with answers, whose ends are scored too where there are stop tokens."""
    if not prompts.exact:
        got = str(prompts.reward.identity.splitlines()[0])
        raise UserError("reward", got, "exact", "measure other rewards by rollouts")
    sequences = [(*t, *a) for t, a in zip(prompts.tokens, prompts.answers, strict=True)]
    longest = max(map(len, prompts.answers)) + 1
    most = max(1, 4 * HEAD_ELEMENTS // (policy.head.shape[0] * longest))
    lengths = [len(t) for t in prompts.tokens]
    return scored_batches(policy, sequences, lengths, past_end=bool(prompts.stops), most_rows=most)


def _log_probabilities(
    policy: Policy, prompts: Prompts, batch: ScoredBatch, finals: Float[Tensor, "M D"]
) -> Float[Tensor, " M"]:
    """Log π(y_t | s_t) at each scored position, log of the sum over stop tokens at the last."""
    log_p = logits(policy, finals).double().log_softmax(1)
    found = log_p.gather(1, batch.target.clamp(min=0)[:, None])[:, 0]
    if not prompts.stops:
        return found
    # A sum of probabilities may round above 1.
    stopped = log_p[:, list(prompts.stops)].logsumexp(1).clamp(max=0)
    return torch.where(batch.target < 0, stopped, found)
