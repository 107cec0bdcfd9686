"""The sampling gap ‖J_sample‖₂ and its bounds at positions of a sequence (Eqs. 20, 21, Prop. 2).

D width · V vocabulary
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from valuegrad.credit.bounds import bounds, entropy
from valuegrad.credit.covariance_bounds import covariance_bounds, table_diameters
from valuegrad.credit.jacobians import sampling_jacobian, spectral_norm, step_jacobian
from valuegrad.errors import UserError, check_positive
from valuegrad.model.cache import first_positions, prefill
from valuegrad.model.policy import Policy, logits

# The chain of bounds: in each pair the first is at most the second.
LINKS = (
    ("gap", "bound_spectral"),
    ("bound_spectral", "bound_trace"),
    ("bound_trace", "bound_maximum"),
    ("bound_maximum", "bound_paper"),
    ("gap", "bound_linear"),
    ("bound_linear", "bound_paper"),
    ("gap", "bound_covariance"),
    ("bound_covariance", "bound_covariance_norms"),
    ("bound_covariance_norms", "bound_diameter"),
    ("bound_diameter", "bound_diameter_entropy"),
)


@dataclass(frozen=True)
class SamplingGap:
    """The gap at one position with every bound on it; made by `sampling_gap`.

    Attributes:
        position, temperature: of the token whose logits are sampled from; τ of the relaxation.
        entropy: H of softmax(z/τ), nats.
        gap, step_norm: ‖J_sample‖₂ and ‖∂h_{t+1}/∂e_t‖₂, hidden units per hidden unit.
        product_norm: N = (1/τ) ‖∂h_{t+1}/∂e_t‖ ‖E‖ ‖W‖.
        bound_spectral, bound_trace, bound_maximum, bound_linear, bound_entropy, bound_paper: N
            times each factor of `bounds`; `bound_linear` is the sharp one of them.
        bound_covariance, bound_covariance_norms, bound_diameter, bound_diameter_entropy: with the
            token distribution between the tables (`covariance_bounds`), each at most the next.
        smallest_constant: gap / sqrt(H / log V), the least C with which Eq. 21 holds here; NaN
            where H is 0.
    """

    position: int
    temperature: float
    entropy: float
    gap: float
    step_norm: float
    product_norm: float
    bound_spectral: float
    bound_trace: float
    bound_maximum: float
    bound_linear: float
    bound_entropy: float
    bound_paper: float
    bound_covariance: float
    bound_covariance_norms: float
    bound_diameter: float
    bound_diameter_entropy: float
    smallest_constant: float


def sampling_gap(
    policy: Policy, sequence: Sequence[int], position: int, temperature: float = 1.0
) -> SamplingGap:
    """The sampling gap ‖J_sample‖₂ (Eq. 20) at one position of a sequence, matrix-free.

    Args:
        policy: the policy.
        sequence: token ids; the one after `position` is what was sampled there.
        position: of h_t, from 0; negative counts from the end.
        temperature: τ of the relaxation, above 0.

    Returns:
        The gap and its bounds, in state per state.

    Raises:
        UserError: a position without a next token, a sequence beyond the context, a temperature
            that is not above 0.

    Example:
        ``sampling_gap(policy, [5, 7, 2, 9], 2).bound_linear``
    """
    return sampling_gaps(policy, sequence, [position], temperature)[0]


def sampling_gaps(
    policy: Policy,
    sequence: Sequence[int],
    positions: Sequence[int],
    temperature: float = 1.0,
    *,
    norms: tuple[float, float] | None = None,
    diameters: tuple[float, float] | None = None,
) -> list[SamplingGap]:
    """As `sampling_gap` at several positions; norms and diameters of the tables where known."""
    check_positive("temperature", temperature, "use 1.0")
    if len(sequence) > policy.context:
        got, wanted = f"{len(sequence)} tokens", f"at most {policy.context}"
        raise UserError("sequence", got, wanted, "shorten it")
    last = len(sequence) - 1
    chosen = [p + len(sequence) if p < 0 else p for p in positions]
    for given, position in zip(positions, chosen, strict=True):
        if not 0 <= position < last:
            got, fix = f"{given} in {len(sequence)} tokens", "choose one with a token after it"
            raise UserError("position", got, f"0 to {last - 1}", fix)
    embedding_norm, head_norm = norms or table_norms(policy)
    diameters = diameters or table_diameters(policy)
    with torch.no_grad():
        cache, finals = prefill(policy, sequence[:last])
    found = []
    for position in chosen:
        with torch.no_grad():
            p = (logits(policy, finals[position]).double() / temperature).softmax(0)
        step = step_jacobian(policy, first_positions(cache, position + 1), sequence[position + 1])
        step_norm = spectral_norm(step)
        gap = spectral_norm(sampling_jacobian(policy, step, p, temperature))
        tight = covariance_bounds(policy, step, step_norm, p, temperature, diameters)
        size = step_norm * embedding_norm * head_norm / temperature
        h = entropy(p).item()
        share = h / math.log(len(p)) if len(p) > 1 else 0.0
        found.append(
            SamplingGap(
                position=position,
                temperature=temperature,
                entropy=h,
                gap=gap,
                step_norm=step_norm,
                product_norm=size,
                smallest_constant=gap / math.sqrt(share) if share > 0 else math.nan,
                **{f"bound_{name}": size * x.item() for name, x in vars(bounds(p)).items()},
                **{f"bound_{name}": x for name, x in vars(tight).items()},
            )
        )
    return found


@torch.no_grad()
def table_norms(policy: Policy) -> tuple[float, float]:
    """‖E‖₂ and ‖W‖₂, from the D × D Gram matrices, exact and in float64."""

    def norm(matrix: Tensor) -> float:
        gram = torch.zeros(matrix.shape[1], matrix.shape[1]).to(matrix.device, torch.float64)
        for rows in torch.split(matrix, 8192):
            wide = rows.double()
            gram += wide.mT @ wide
        return float(torch.linalg.eigvalsh(gram)[-1].clamp(min=0).sqrt())

    head_norm, tied = norm(policy.head), policy.embedding.data_ptr() == policy.head.data_ptr()
    return head_norm if tied else norm(policy.embedding), head_norm
