"""The GRPO objective (Eq. 1): clipped ratios, sequence mean, group mean, KL to a reference.

N completions · T tokens of a completion
"""

import torch
from jaxtyping import Float, Num
from torch import Tensor

from valuegrad.errors import UserError


def grpo_objective(
    logp: Float[Tensor, "N T"],
    logp_old: Float[Tensor, "N T"],
    logp_ref: Float[Tensor, "N T"] | None,
    advantages: Float[Tensor, " N"] | Float[Tensor, "N T"],
    mask: Num[Tensor, "N T"],
    clip: float = 0.2,
    beta: float = 0.0,
    *,
    kl: Float[Tensor, "N T"] | None = None,
) -> Float[Tensor, ""]:
    """J of Eq. 1, to be maximised; minus TRL's loss with ``loss_type="grpo"``.

    With beta above 0 that is TRL's loss with ``use_bias_correction_kl=False``: TRL's default also
    multiplies the k3 estimate by the ratio, which Eq. 1 does not.

    J = mean_i (1/T_i) Σ_t [min(ρ Â, clip(ρ, 1−ε, 1+ε) Â) − β KL], ρ = exp(logp − logp_old). The
    KL is the k3 estimate exp(ref − logp) − (ref − logp) − 1 unless it is given.

    Args:
        logp: log π of the drawn tokens under the policy that learns, nats.
        logp_old: the same under the policy that drew them; no gradient is taken.
        logp_ref: the same under the reference; None where beta is 0 or ``kl`` is given.
        advantages: one a completion, or one a token; no gradient is taken.
        mask: 1 on the tokens of a completion, 0 on padding.
        clip: ε, above 0.
        beta: weight of the KL, at least 0.
        kl: the KL of each token's distribution where it is known exactly.

    Returns:
        The objective. A completion without tokens counts as 0.

    Raises:
        UserError: beta above 0 with neither reference nor KL; clip or beta out of range.

    Example:
        >>> zero, one = torch.zeros(2, 1), torch.ones(2, 1)
        >>> grpo_objective(zero, zero, None, torch.tensor([1.0, -0.5]), one)
        tensor(0.2500)
    """
    if not clip > 0 or not beta >= 0:
        got = f"clip={clip}, beta={beta}"
        raise UserError("clip, beta", got, "clip above 0 and beta at least 0", "change them")
    kept = mask.bool()
    weight = advantages.detach()
    if weight.dim() == 1:
        weight = weight[:, None].expand_as(logp)
    # Padding may hold infinities, which would reach the gradient if they were only multiplied by 0.
    logp, logp_old, weight = (
        torch.where(kept, values, 0.0) for values in (logp, logp_old.detach(), weight)
    )
    ratio = torch.exp(logp - logp_old)
    token = torch.minimum(ratio * weight, ratio.clamp(1 - clip, 1 + clip) * weight)
    if beta > 0:
        if kl is None:
            if logp_ref is None:
                raise UserError("logp_ref", "None", "the reference's when beta > 0", "pass it")
            gap = torch.where(kept, logp_ref.detach(), 0.0) - logp
            kl = torch.exp(gap) - gap - 1
        token = token - beta * torch.where(kept, kl, 0.0)
    return (token.sum(1) / mask.sum(1).clamp(min=1)).mean()
