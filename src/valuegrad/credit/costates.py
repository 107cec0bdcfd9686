"""Empirical costates λ̂_t = ∂/∂h_t Σ_{k≥t} Â_k log π(o_k|s_k) of whole completions (Def. 2, Eq. 14).

One backward pass without parameter gradients gives them at every site and position. At ``"final"``
they are the closed form Â_t (onehot(o_t) − p_t) W, where that backward pass starts: logits are
formed at the scored positions only, a few rows at a time, and never kept. Below, credit splits into
*immediate* (through the position's own log-probability) and *transported* (through later ones, by
attention): theory §1, correction A.

B sequences · T completion tokens · M scored positions of a batch · D width · V vocabulary
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from valuegrad.credit.completions import Completions, completions
from valuegrad.model.attention import own_position_attention
from valuegrad.model.batches import GRAPH_TOKENS, HEAD_ELEMENTS, ScoredBatch, scored_batches
from valuegrad.model.policy import Policy, Site
from valuegrad.model.sites import check_site, recorded


@dataclass(frozen=True, eq=False)
class Costates:
    """Empirical costates of a batch at one site; made by `costates`.

    Rows past the end of a completion are 0.

    Attributes:
        site: where they live.
        total: λ̂ at the positions whose logits score o_1 … o_T, in advantage units per unit of the
            hidden state.
        immediate: the part through the position's own log-probability; None if not asked for.
        logp: log π(o_t | s_t) in nats.
        mask: which entries belong to a completion.
    """

    site: Site
    total: Float[Tensor, "B T D"]
    immediate: Float[Tensor, "B T D"] | None
    logp: Float[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]

    @property
    def transported(self) -> Float[Tensor, "B T D"] | None:
        """The part through later log-probabilities, carried by attention: total − immediate."""
        return None if self.immediate is None else self.total - self.immediate

    @property
    def transport_share(self) -> Float[Tensor, "B T"]:
        """‖transported‖ / ‖total‖; NaN where the total is 0, outside the mask, or not split."""
        transported = self.transported
        if transported is None:
            return torch.full_like(self.logp, torch.nan)
        size: Tensor = torch.linalg.vector_norm(self.total, dim=2)
        share: Tensor = torch.linalg.vector_norm(transported, dim=2) / size
        return share.where(size > 0, torch.nan)


def costates(
    policy: Policy,
    sequences: Sequence[Sequence[int]] | Int[Tensor, "B S"],
    prompt_lengths: int | Sequence[int],
    advantages: Float[Tensor, " B"] | Float[Tensor, "B T"] | Sequence[float],
    site: Site = "final",
    *,
    attention_mask: Tensor | None = None,
    batch_tokens: int = GRAPH_TOKENS,
) -> Costates:
    """The empirical costates of a batch of completions at one site, split by how credit came.

    Args:
        policy: the policy.
        sequences: token ids of prompt and completion, as lists of any lengths, or as one array
            padded on either side together with its `attention_mask`.
        prompt_lengths: tokens of the prompt, one number or one a sequence; padding not counted.
        advantages: Â, one a sequence or one a completion token, held constant.
        site: ``"embedding"``, a block's number or ``"final"``.
        attention_mask: 1 where an array holds a token, 0 where padding; None for no padding.
        batch_tokens: tokens a forward pass, padding included; changes speed and memory only.

    Returns:
        The costates, total and immediate.

    Raises:
        UserError: no such site; a sequence beyond the context, without prompt or without
            completion, or with a token outside the vocabulary; advantages that do not fit or are
            not finite.

    Example:
        ``costates(policy, [[5, 7, 2, 9]], 2, [1.0], site=0).transport_share``
    """
    site = check_site(policy, site)
    batch = completions(policy, sequences, prompt_lengths, advantages, attention_mask)
    return costates_at(policy, batch, (site,), batch_tokens=batch_tokens)[site]


def costates_at(
    policy: Policy,
    batch: Completions,
    sites: Sequence[Site],
    *,
    split: bool = True,
    batch_tokens: int = GRAPH_TOKENS,
) -> dict[Site, Costates]:
    """As `costates` at several sites, for one backward pass in all and one more for the split.

    Args:
        policy: the policy.
        batch: from `completions`.
        sites: where.
        split: whether to form the immediate parts.
        batch_tokens: tokens a forward pass, padding included.

    Returns:
        Costates by site.

    Raises:
        UserError: no such site.
    """
    sites = tuple(check_site(policy, site) for site in sites)
    inner = [site for site in sites if site != "final"]
    shape = (*batch.mask.shape, policy.head.shape[1])
    total = {site: policy.head.new_zeros(shape) for site in sites}
    immediate = {site: policy.head.new_zeros(shape) for site in sites if split}
    logp = policy.head.new_zeros(batch.mask.shape)
    for part in scored_batches(policy, batch.tokens, batch.prompt_lengths, batch_tokens):
        final, states = _forward(policy, part, inner)
        signal = batch.advantages[part.into]
        cotangent, logp[part.into] = final_costates(policy, final.detach(), part.target, signal)
        _backward(part, final, states, cotangent, total)
        if not split:
            continue
        # Without a site below "final" there is no credit from elsewhere to take off.
        if inner:
            del final, states
            with own_position_attention(policy):
                final, states = _forward(policy, part, inner)
        _backward(part, final, states, cotangent, immediate)
    return {s: Costates(s, total[s], immediate.get(s), logp, batch.mask) for s in sites}


@torch.no_grad()
def final_costates(
    policy: Policy,
    states: Float[Tensor, "M D"],
    actions: Int[Tensor, " M"],
    advantages: Float[Tensor, " M"],
) -> tuple[Float[Tensor, "M D"], Float[Tensor, " M"]]:
    """Costates at ``"final"`` in closed form, Â (W_o − w̄) with w̄ = p W, and log π(o) in nats."""
    head = policy.head
    result, logp = torch.empty_like(states), torch.empty_like(states[:, 0])
    step = max(1, 2 * HEAD_ELEMENTS // head.shape[0])
    # One array of rows × vocabulary for all rows: fresh memory costs as much as what fills it.
    buffer = states.new_empty(min(step, len(states)), head.shape[0])
    for start in range(0, len(states), step):
        rows = slice(start, start + step)
        z = torch.mm(states[rows], head.mT, out=buffer[: len(states[rows])])
        z = z if policy.head_bias is None else z.add_(policy.head_bias)
        z = z if z.dtype == torch.float64 else z.float()
        # In place, since nothing else here is as large.
        log_p = z.sub_(z.logsumexp(1, keepdim=True))
        logp[rows] = log_p.gather(1, actions[rows, None])[:, 0]
        mean_row = log_p.exp_().to(head.dtype) @ head
        result[rows] = advantages[rows, None].to(head.dtype) * (head[actions[rows]] - mean_row)
    return result, logp


def _forward(
    policy: Policy, part: ScoredBatch, inner: Sequence[Site]
) -> tuple[Float[Tensor, "M D"], dict[Site, Tensor]]:
    """The final states of the scored positions, and the states at the sites below."""
    if not inner:
        with torch.no_grad():
            return part.final_states(policy), {}
    with recorded(policy, inner) as states:
        return part.final_states(policy), states


def _backward(
    part: ScoredBatch,
    final: Tensor,
    states: dict[Site, Tensor],
    cotangent: Tensor,
    into: dict[Site, Tensor],
) -> None:
    """Carry a cotangent of the final states to the sites."""
    inner = [site for site in into if site != "final"]
    found = torch.autograd.grad(final, [states[s] for s in inner], cotangent) if inner else ()
    for site, gradient in zip(inner, found, strict=True):
        into[site][part.into] = gradient[part.at]
    if "final" in into:
        into["final"][part.into] = cotangent
