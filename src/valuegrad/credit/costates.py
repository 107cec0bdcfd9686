"""Empirical costates λ̂_t = ∂/∂h_t Σ_{k≥t} Â_k log π(o_k|s_k) of whole completions (Def. 2, Eq. 14).

One backward pass without parameter gradients gives them at every site and position. At ``"final"``
they are the closed form Â_t (onehot(o_t) − p_t) W, where that backward pass starts: logits are
formed at the scored positions only, a few rows at a time, and never kept. Below, credit splits into
*immediate* (through the position's own log-probability) and *transported* (through later ones, by
attention): theory §1, correction A.

B sequences · T completion tokens · M scored positions of a batch · D width · V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from valuegrad.credit.completions import Completions, completions
from valuegrad.model.attention import own_position_attention
from valuegrad.model.policy import Policy, Site
from valuegrad.model.sites import check_site, recorded
from valuegrad.one_token_prompts import batches

# Activations of a forward pass are what most of the memory is: this many tokens fill two cores.
BATCH_TOKENS = 1024
# Elements of one array of rows × vocabulary: what the head's share of the memory follows from.
HEAD_ELEMENTS = 2**22


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
    batch_tokens: int = BATCH_TOKENS,
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
    batch_tokens: int = BATCH_TOKENS,
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
    shape = (*batch.mask.shape, policy.head.shape[1])
    total = {site: policy.head.new_zeros(shape) for site in sites}
    immediate = {site: policy.head.new_zeros(shape) for site in sites} if split else None
    logp = policy.head.new_zeros(batch.mask.shape)
    for rows in batches([len(tokens) for tokens in batch.tokens], batch_tokens):
        part = _Part(policy, batch, rows, sites)
        final, states = part.forward()
        cotangent, logp[part.where] = final_costates(
            policy, final.detach(), part.actions, batch.advantages[part.where]
        )
        part.backward(final, states, cotangent, total)
        if immediate is None:
            continue
        # Without a site below "final" there is no credit from elsewhere to take off.
        if part.inner:
            del final, states
            with own_position_attention(policy):
                final, states = part.forward()
        part.backward(final, states, cotangent, immediate)
    return {
        site: Costates(
            site, total[site], None if immediate is None else immediate[site], logp, batch.mask
        )
        for site in sites
    }


@torch.no_grad()
def final_costates(
    policy: Policy,
    states: Float[Tensor, "M D"],
    actions: Int[Tensor, " M"],
    advantages: Float[Tensor, " M"],
) -> tuple[Float[Tensor, "M D"], Float[Tensor, " M"]]:
    """Costates at ``"final"`` in closed form: Â (W_o − w̄), w̄ = p W, and log π(o).

    Args:
        policy: the policy.
        states: at ``"final"``.
        actions: the token o that each state scored.
        advantages: Â of each.

    Returns:
        Costates in the head's dtype, and log-probabilities in nats.
    """
    head = policy.head
    result, logp = torch.empty_like(states), torch.empty_like(states[:, 0])
    step = max(1, HEAD_ELEMENTS // head.shape[0])
    # One array of rows × vocabulary for all rows: fresh memory costs as much as what fills it.
    room = states.new_empty(min(step, len(states)), head.shape[0])
    for start in range(0, len(states), step):
        rows = slice(start, start + step)
        z = torch.mm(states[rows], head.mT, out=room[: len(states[rows])])
        z = z if policy.head_bias is None else z.add_(policy.head_bias)
        z = z if z.dtype == torch.float64 else z.float()
        # In place, since nothing else here is as large.
        log_p = z.sub_(z.logsumexp(1, keepdim=True))
        logp[rows] = log_p.gather(1, actions[rows, None])[:, 0]
        mean_row = log_p.exp_().to(head.dtype) @ head
        result[rows] = advantages[rows, None].to(head.dtype) * (head[actions[rows]] - mean_row)
    return result, logp


class _Part:
    """The rows of one forward pass, padded on the right, which no state of theirs can see."""

    def __init__(
        self, policy: Policy, batch: Completions, rows: list[int], sites: tuple[Site, ...]
    ) -> None:
        self.policy = policy
        self.inner = [site for site in sites if site != "final"]
        longest = max(len(batch.tokens[row]) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        row_of: list[int] = []
        position: list[int] = []
        step: list[int] = []
        for i, row in enumerate(rows):
            tokens, start = batch.tokens[row], batch.prompt_lengths[row] - 1
            ids[i, : len(tokens)] = torch.tensor(tokens)
            count = len(tokens) - start - 1
            row_of += [i] * count
            position += range(start, start + count)
            step += range(count)
        self.ids = ids.to(policy.device)
        self.picked = torch.tensor(row_of), torch.tensor(position)
        self.where = torch.tensor(rows)[self.picked[0]], torch.tensor(step)
        self.actions = self.ids[self.picked[0], self.picked[1] + 1]

    def forward(self) -> tuple[Tensor, dict[Site, Tensor]]:
        """The final states of the scored positions, and the states at the sites below."""
        base = self.policy.model.base_model
        if not self.inner:
            with torch.no_grad():
                return base(input_ids=self.ids, use_cache=False).last_hidden_state[self.picked], {}
        with recorded(self.policy, self.inner) as states:
            output = base(input_ids=self.ids, use_cache=False)
        return output.last_hidden_state[self.picked], states

    def backward(
        self,
        final: Tensor,
        states: dict[Site, Tensor],
        cotangent: Tensor,
        into: dict[Site, Tensor],
    ) -> None:
        """Carry a cotangent of the final states to the sites."""
        if "final" in into:
            into["final"][self.where] = cotangent
        if self.inner:
            found = torch.autograd.grad(final, [states[site] for site in self.inner], cotangent)
            for site, gradient in zip(self.inner, found, strict=True):
                into[site][self.where] = gradient[self.picked]
