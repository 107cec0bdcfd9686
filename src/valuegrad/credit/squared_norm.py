"""Unbiased squared norms and inner products of value gradients from rollouts (correction C).

G = E[R s] = Cov(R, s), s the score vector, whose mean is 0. The squared norm of a sample mean is
‖G‖² plus the variance of that mean. The product of the two Gram matrices, both U-centred (Székely
and Rizzo 2014), estimates ‖G‖² without bias: HSIC with linear kernels (Song et al. 2012).

n rollouts from one state · D width
"""

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.errors import UserError


def squared_norm(
    scores: Float[Tensor, "*batch n D"], rewards: Float[Tensor, "*batch n"]
) -> Float[Tensor, "*batch"]:
    """An unbiased estimate of ‖Cov(R, s)‖² = ‖G‖² from n rollouts of one state (correction C).

    Σ_{i≠j} Ã_ij B̃_ij / (n (n − 3)) with A_ij = s_i · s_j, B_ij = r_i r_j, both U-centred. It may be
    negative, as an unbiased estimate of a number that may be 0 must be.

    Args:
        scores: s of each rollout (…, n, D), in any floating dtype.
        rewards: R of each rollout (…, n), reward units.

    Returns:
        One estimate a batch entry, in reward units² per unit² of the hidden state, float64.

    Raises:
        UserError: fewer than 4 rollouts, shapes that do not fit, or values that are not finite.

    Example:
        >>> s = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
        >>> round(squared_norm(s, s[:, 0]).item(), 3)
        2.667
    """
    return _estimate(scores, rewards=rewards)


def inner_product(
    scores: Float[Tensor, "*batch n D"],
    first: Float[Tensor, "*batch n"],
    second: Float[Tensor, "*batch n"],
) -> Float[Tensor, "*batch"]:
    """An unbiased estimate of ⟨Cov(a, s), Cov(b, s)⟩ for two signals of the same rollouts.

    With a the advantages and b the rewards this is the alignment ⟨E λ̂, G⟩ of Eq. 24, for
    advantages that do not depend on the other rollouts.

    Args:
        scores: s of each rollout (…, n, D).
        first: the signal a (…, n).
        second: the signal b (…, n).

    Returns:
        One estimate a batch entry, in the units of a and b per unit² of the hidden state, float64.

    Raises:
        UserError: as `squared_norm`.

    Example:
        >>> s = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
        >>> round(inner_product(s, s[:, 0], 3 * s[:, 0]).item(), 3)
        8.0
    """
    return _estimate(scores, first=first, second=second)


def _estimate(scores: Tensor, **signals: Tensor) -> Tensor:
    """⟨Cov(a, s), Cov(b, s)⟩ of two signals, or ‖Cov(a, s)‖² of one; each is named in errors."""
    n = scores.shape[-2] if scores.dim() > 1 else 0
    if n < 4:
        raise UserError("scores", f"{n} rollouts", "at least 4", "draw more rollouts a state")
    for name, signal in signals.items():
        if signal.shape != scores.shape[:-1]:
            got, wanted = f"shape {tuple(signal.shape)}", f"{tuple(scores.shape[:-1])}"
            raise UserError(name, got, wanted, "pass one number a rollout")
    for name, values in {"scores": scores, **signals}.items():
        if not torch.isfinite(values).all():
            fix = "look at the reward function"
            raise UserError(name, "values that are not finite", "finite numbers", fix)
    wide, given = scores.double(), [signal.double() for signal in signals.values()]
    a, b = given[0], given[-1]
    # Only the symmetric part of a bᵀ meets the symmetric Gram matrix.
    outer = (a[..., :, None] * b[..., None, :] + b[..., :, None] * a[..., None, :]) / 2
    product: Tensor = _u_centred(wide @ wide.mT) * _u_centred(outer)
    return product.sum((-2, -1)) / (n * (n - 3))


def _u_centred(gram: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """U-centring of Székely and Rizzo (2014): zero diagonal, unbiased row and column means."""
    n = gram.shape[-1]
    keep = ~torch.eye(n, dtype=torch.bool, device=gram.device)
    off = gram * keep
    rows, columns = (off.sum(axis, keepdim=True) / (n - 2) for axis in (-1, -2))
    whole = off.sum((-2, -1), keepdim=True) / ((n - 1) * (n - 2))
    centred: Tensor = (off - rows - columns + whole) * keep
    return centred
