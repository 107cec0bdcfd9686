"""Costates λ̂ = Â ∂log π/∂h of one-token answers over the whole vocabulary (Eqs. 14, 26).

At ``"final"`` the costate of token a is Â_a (W_a − w̄), w̄ = Σ_a p_a W_a: a closed form, no backward
pass (correction A). Its mean is slope · G for every method whose advantage is affine in the reward,
and its mean distance from G needs only norms and inner products of the W_a − w̄.

B prompts · D width · V vocabulary
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from valuegrad.finite_groups import GroupAdvantages

NEGLIGIBLE = 1e-26  # probability of a value of Â; ‖G‖, which it is added to, may be 1e-9 and less


@dataclass(frozen=True)
class ScoreGeometry:
    """How the score vectors s_a = ∂log p_a/∂h of every token lie at some prompts and a site."""

    squared_norm: Float[Tensor, "B V"]  # ‖s_a‖²
    projection: Float[Tensor, "B V"]  # s_a · G
    value_gradient: Float[Tensor, "B D"]  # G


@dataclass(frozen=True)
class CentredHead:
    """An output head with its mean row taken off, so that norms do not drown in a common part."""

    weight: Float[Tensor, "V D"]  # W itself; centring is done on the products, not on a copy
    centre: Float[Tensor, " D"]  # the mean row m
    squared_norm: Float[Tensor, " V"]  # ‖W_a − m‖² in float64


def centred_head(weight: Float[Tensor, "V D"]) -> CentredHead:
    """The centre and the centred row norms of an output head; done once a checkpoint."""
    centre = weight.mean(0, dtype=torch.float64)
    norms = [
        torch.linalg.vector_norm(block.double() - centre, dim=1).square_()
        for block in torch.split(weight, 8192)
    ]
    return CentredHead(weight, centre.to(weight.dtype), torch.cat(norms))


def final_geometry(
    head: CentredHead, mean_row: Float[Tensor, "B D"], gradient: Float[Tensor, "B D"]
) -> ScoreGeometry:
    """The geometry at ``"final"`` from w̄ and G there, in one product with W.

    With v = w̄ − m: ‖W_a − w̄‖² = ‖W_a − m‖² − 2 (W_a − m)·v + ‖v‖².
    """
    weight = head.weight
    offset = mean_row - head.centre
    along_offset, along_gradient = (torch.cat((offset, gradient)) @ weight.mT).double().chunk(2)
    offset64, centre64, gradient64 = offset.double(), head.centre.double(), gradient.double()
    along_offset -= (offset64 @ centre64)[:, None]
    squared = along_offset.mul_(-2).add_(head.squared_norm)
    squared += offset64.square().sum(1, keepdim=True)
    along_gradient -= ((offset64 + centre64) * gradient64).sum(1, keepdim=True)
    return ScoreGeometry(squared.clamp_(min=0), along_gradient, gradient)


def site_geometry(
    weight: Float[Tensor, "V D"],
    mean_row: Float[Tensor, "B D"],
    gradient: Float[Tensor, "B D"],
    jacobian: Float[Tensor, "B D D"],
) -> ScoreGeometry:
    """As `final_geometry` at a lower site, J from it to ``"final"``: s_a = Jᵀ(W_a − w̄), G = Jᵀ G.

    Costs V·D² a prompt.
    """
    at_site = (gradient[:, None] @ jacobian)[:, 0]
    squared, projection = [], []
    for mean_D, gradient_D, jacobian_DD in zip(mean_row, at_site, jacobian, strict=True):
        scores = (weight - mean_D) @ jacobian_DD
        squared.append(scores.square().sum(1))
        projection.append(scores @ gradient_D)
    return ScoreGeometry(torch.stack(squared).double(), torch.stack(projection).double(), at_site)


def mean_costate_error(
    p: Float[Tensor, "B V"],
    kinds: Int[Tensor, "B V"],
    geometry: ScoreGeometry,
    group: GroupAdvantages,
) -> Float[Tensor, " B"]:
    """E ‖λ̂ − G‖ of each prompt, over the vocabulary and over what the group's others earn.

    ‖λ̂(a) − G‖² = Â² ‖s_a‖² − 2 Â s_a·G + ‖G‖². ``kinds`` says which of the group's rewards each
    token earns.
    """
    own = geometry.value_gradient.double().square().sum(1, keepdim=True)
    along, total = 2 * geometry.projection, p.new_zeros(len(p))
    for advantage, weight in zip(group.nodes.unbind(2), group.weights.unbind(2), strict=True):
        if not (weight > NEGLIGIBLE).any():
            continue
        given = advantage.gather(1, kinds)
        squared = geometry.squared_norm * given
        squared -= along
        squared.mul_(given).add_(own).clamp_(min=0).sqrt_().mul_(p)
        total += squared.mul_(weight.gather(1, kinds)).sum(1)
    return total
