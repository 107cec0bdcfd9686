"""Where the credit for one completion goes (Def. 2, Eq. 14): costates at every site and token.

S sites · N tokens of prompt and completion
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.credit.completions import completions
from valuegrad.credit.costates import costates_at
from valuegrad.errors import NotFiniteError, UserError
from valuegrad.model.cache import sampled
from valuegrad.model.policy import Policy, Site
from valuegrad.model.sites import check_site
from valuegrad.model.tokens import encode
from valuegrad.theory.case import encoded
from valuegrad.theory.settings import MAX_TOKENS


@dataclass(frozen=True)
class TracedToken:
    """One token of the prompt or the completion.

    Attributes:
        position, token, text: in the sequence, from 0; its id; what it adds to the text.
        logp: its log-probability given those before, in nats; NaN for the first.
        in_completion: whether the policy is credited for it.
    """

    position: int
    token: int
    text: str
    logp: float
    in_completion: bool


@dataclass(frozen=True, eq=False)
class Trace:
    """Sizes of the costates of one completion, by site and position; made by `trace`.

    The state at a position has read the token there and scores the next one, so the last position
    scores nothing and has no credit.

    Attributes:
        checkpoint, prompt, completion: the policy's name, the text before and what is credited.
        advantage: Â of every token of the completion.
        tokens, sites: of prompt and completion; from the input to the output.
        total: ‖λ̂‖ in advantage units per unit of the hidden state.
        immediate: ‖·‖ of the part through the log-probability that the position itself scores.
        transported: ‖·‖ of the part through later ones, carried by attention.
    """

    checkpoint: str
    prompt: str
    completion: str
    advantage: float
    tokens: tuple[TracedToken, ...]
    sites: tuple[Site, ...]
    total: Float[Tensor, "S N"]
    immediate: Float[Tensor, "S N"]
    transported: Float[Tensor, "S N"]

    @property
    def transport_share(self) -> Float[Tensor, "S N"]:
        """‖transported‖ / ‖total‖; NaN where the total is 0."""
        share: Tensor = (self.transported / self.total).where(self.total > 0, torch.nan)
        return share

    @property
    def credit_share(self) -> Float[Tensor, "S N"]:
        """‖total‖ of a position over the sum of its site: sites of any scale compare."""
        return self.total / self.total.sum(1, keepdim=True)

    @property
    def carried_share(self) -> Float[Tensor, " S"]:
        """Σ ‖transported‖ / Σ (‖transported‖ + ‖immediate‖) over a site's positions, in [0, 1]."""
        carried, own = self.transported.sum(1), self.immediate.sum(1)
        return carried / (carried + own)

    @property
    def middle(self) -> int:
        """Which of the sites lies in the middle of those that attention can carry credit to."""
        return max(0, (len(self.sites) - 2) // 2)


def trace(
    policy: Policy,
    prompt: str,
    completion: str | None = None,
    *,
    sites: Sequence[Site] | None = None,
    advantage: float = 1.0,
    max_tokens: int = MAX_TOKENS,
    seed: int = 0,
) -> Trace:
    r"""Follow the credit for a completion to every site and token: ∂/∂h Σ_k Â log π(o_k|s_k).

    As `costates` (Def. 2, Eq. 14) with one advantage Â, and at the prompt's positions as well: all
    credit there is transported, except at the last, whose logits score the first token.

    Args:
        policy: the policy.
        prompt: at least one token.
        completion: what is credited; None draws it from the policy until a stop token.
        sites: some of the policy's; None takes all.
        advantage: Â of every token of the completion; sizes are proportional to it.
        max_tokens: the most that are drawn.
        seed: of the drawing.

    Returns:
        The trace.

    Raises:
        UserError: no such site; an advantage of 0; prompt or completion empty or beyond the
            context; a completion whose first characters merge with the prompt's last token.
        RunError: costates that are not finite.

    Example:
        ``trace(load_policy("runs/step100"), "label = 'B'\nanswer = '", "B").carried_share``
    """
    chosen = policy.sites if sites is None else tuple(check_site(policy, s) for s in sites)
    if not chosen:
        raise UserError("sites", "none", "at least one", "leave it out for all of them")
    if not math.isfinite(advantage) or advantage == 0:
        raise UserError("advantage", str(advantage), "a number other than 0", "use 1")
    ids = encoded(policy, prompt, 1, policy.context - 1)
    if completion is None:
        if max_tokens < 1:
            fix = f"use the default, {MAX_TOKENS}"
            raise UserError("max_tokens", str(max_tokens), "1 or more", fix)
        generator = torch.Generator().manual_seed(seed)
        most = min(max_tokens, policy.context - len(ids))
        drawn = sampled(policy, ids, most, generator, stop=frozenset(policy.stop_tokens))
        whole, completion = ids + drawn, _decode(policy, drawn)
    else:
        whole = _joined(policy, prompt, ids, completion)
    # A prompt of one token and no advantage on the rest of it gives costates at all positions.
    signal = [0.0] * (len(ids) - 1) + [advantage] * (len(whole) - len(ids))
    batch = completions(policy, [whole], 1, torch.tensor([signal], dtype=torch.float64))
    found = costates_at(policy, batch, chosen)
    logp = [math.nan, *found[chosen[0]].logp[0].tolist()]
    tokens = tuple(
        TracedToken(i, token, text, logp[i], i >= len(ids))
        for i, (token, text) in enumerate(zip(whole, _texts(policy, whole), strict=True))
    )
    sizes = {}
    for part in ("total", "immediate", "transported"):
        states = torch.cat([getattr(found[site], part) for site in chosen]).cpu().double()
        # The last position scores nothing.
        sizes[part] = torch.nn.functional.pad(torch.linalg.vector_norm(states, dim=2), (0, 1))
    name = policy.checkpoint.name
    if not torch.isfinite(sizes["total"]).all():
        place, token = (~torch.isfinite(sizes["total"])).nonzero()[0].tolist()
        where = f"site {chosen[place]}, token {token} ({tokens[token].text!r})"
        raise NotFiniteError(f"{name}: a costate that is not finite at {where}")
    return Trace(name, prompt, completion, float(advantage), tokens, chosen, **sizes)


def trace_document(found: Trace) -> dict[str, Any]:
    """What ``valuegrad trace --json`` prints; arrays hold a row a site and a column a token."""
    shares = ("transport_share", "credit_share", "carried_share")
    document = {**vars(found), **{name: getattr(found, name) for name in shares}}
    return {**document, "tokens": [asdict(token) for token in found.tokens]}


def _joined(policy: Policy, prompt: str, ids: list[int], completion: str) -> list[int]:
    """Prompt and completion as tokens, the prompt's being what they are without the completion."""
    whole = list(encode(policy, [prompt + completion])[0])
    if not completion:
        fix = "write a text, or leave it out to draw one from the policy"
        raise UserError("completion", "''", "at least one token", fix)
    if whole[: len(ids)] != ids or len(whole) == len(ids):
        pairs = zip(ids, whole, strict=False)
        same = next((i for i, (one, other) in enumerate(pairs) if one != other), len(ids))
        merged = (_texts(policy, whole)[same : same + 1] or [""])[0]
        got = f"{completion[:20]!r}, which merges with the end of the prompt {prompt[-20:]!r} into "
        wanted = "a completion that begins with a token of its own"
        fix = "move the characters of that token from the one to the other"
        raise UserError("completion", f"{got}the token {merged!r}", wanted, fix)
    if len(whole) > policy.context:
        got = f"{len(whole) - len(ids)} tokens after a prompt of {len(ids)}"
        wanted = f"at most {policy.context - len(ids)} in a context of {policy.context}"
        raise UserError("completion", got, wanted, "shorten it, or the `prompt`")
    return whole


def _texts(policy: Policy, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text: some decoders drop a space where a text begins."""
    found = []
    for i, token in enumerate(ids):
        before = _decode(policy, ids[max(0, i - 1) : i])
        pair = _decode(policy, ids[max(0, i - 1) : i + 1])
        text = pair[len(before) :] if pair.startswith(before) else ""
        # Bytes of one character in several tokens, or a row of the head without a token.
        found.append(text or _decode(policy, [token]) or f"<{token}>")
    return found


def _decode(policy: Policy, ids: Sequence[int]) -> str:
    text: str = policy.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
    return text
