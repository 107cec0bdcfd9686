"""Σ, Λ and alignment of states from the score vectors of their rollouts (Eqs. 24 to 27).

Of two rewards everything follows from how many rollouts earned the higher one, over the fitted
mixture of success probabilities (`mixing`). Of other rewards the groups that the rollouts can make
up stand for those of RL.

N states · n rollouts of each · D width
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.budget import Method
from valuegrad.credit.squared_norm import inner_product, squared_norm
from valuegrad.finite_groups import (
    GroupAdvantages,
    group_advantages,
    limit_advantages,
    pooled_nodes,
)
from valuegrad.impact.costate_error import costate_error, two_valued_costate_error
from valuegrad.impact.mixing import Mixing, mixing
from valuegrad.impact.outcomes import levels, nearest, reward_mass
from valuegrad.impact.sampled_update import mean_advantages
from valuegrad.impact.signal import GradientSignals
from valuegrad.impact.signal_slopes import group_signal_slopes, inverse_deviation, signal_slopes
from valuegrad.methods import XI, population_advantages, zero_spread

LEAST = 4  # rollouts that an unbiased estimate needs
LEVELS = 64  # most rewards that rollouts are told apart by
PARTS = 128  # ways in which rollouts are parted into a group and the others


@dataclass(frozen=True, eq=False)
class Rewarded:
    """The rewards of prompts' rollouts, and what their advantages are by method.

    ``finite`` and ``limit`` are the advantages of groups and of their limit, given the reward.
    """

    rewards: Float[Tensor, "N n"]
    pair: tuple[float, float] | None  # the two rewards, where there are no others
    group_size: int
    finite: Mapping[Method, GroupAdvantages]
    limit: Mapping[Method, GroupAdvantages]

    @property
    def values(self) -> Float[Tensor, " K"]:
        """The different rewards."""
        return next(iter(self.finite.values())).values

    @property
    def mass(self) -> Float[Tensor, "N K"]:
        """The share of each prompt's rollouts that earned each reward."""
        return _mass(self.rewards, self.values)

    @property
    def hit(self) -> Float[Tensor, "N n"]:
        """Which rollouts earned the higher of two rewards, as 0 and 1."""
        assert self.pair is not None
        return (self.rewards == self.pair[1]).double()

    @property
    def step(self) -> float:
        """The difference of two rewards."""
        assert self.pair is not None
        return self.pair[1] - self.pair[0]

    def at(self, rows: list[int], rewards: Float[Tensor, "N n"]) -> "Rewarded":
        """Rollouts of deeper states of some prompts: a completion has its prompt's advantage."""
        finite = {m: group.at(rows) for m, group in self.finite.items()}
        limit = {m: group.at(rows) for m, group in self.limit.items()}
        return Rewarded(rewards, self.pair, self.group_size, finite, limit)


def rewarded(
    rewards: Float[Tensor, "N n"],
    pair: tuple[float, float] | None,
    methods: Sequence[Method],
    group_size: int,
    prompts_per_update: int,
) -> Rewarded:
    """The advantages of prompts from the rewards of their rollouts."""
    r = rewards.double()
    sizes = group_size, prompts_per_update
    if pair is None:
        values = levels(r, LEVELS)
        mass = _mass(r, values)
        finite = {m: group_advantages(values, mass, m, *sizes) for m in methods}
        return Rewarded(r, pair, group_size, finite, {m: _limit(r, values, m) for m in methods})
    values = torch.tensor(pair, dtype=torch.float64)
    hit = (r == pair[1]).double()
    fit = fitted(hit)
    finite, limit = dict[Method, GroupAdvantages](), dict[Method, GroupAdvantages]()
    for m in methods:
        if m == "ppo":
            both = _mass(r, values)
            finite[m] = group_advantages(values, both, m, *sizes)
            limit[m] = limit_advantages(values, both, m)
        else:
            finite[m], limit[m] = _over_fit(fit, values, m, group_size)
    return Rewarded(r, pair, group_size, finite, limit)


def _mass(r: Tensor, values: Tensor) -> Tensor:
    return reward_mass(values, nearest(values, r), torch.full_like(r, 1 / r.shape[1]))


def _limit(r: Tensor, values: Tensor, method: Method) -> GroupAdvantages:
    """The limit of large groups from the moments of a prompt's rollouts."""
    variance = r.var(1, correction=1 if method == "grpo" else 0)
    given = population_advantages(r.mean(1), variance, method)
    slope = given.slope
    if method == "grpo":
        # Whatever 1/ξ makes of rounding.
        slope = torch.where(zero_spread(r), 0.0, slope)
    return _affine(values, slope, given.baseline)


def _affine(values: Tensor, slope: Tensor, baseline: Tensor) -> GroupAdvantages:
    found = slope[:, None] * (values - baseline[:, None])
    weights = torch.ones_like(found)[:, :, None]
    return GroupAdvantages(values, found, found[:, :, None], weights, slope, True)


def _over_fit(
    fit: Mixing, values: Tensor, method: Method, group_size: int
) -> tuple[GroupAdvantages, GroupAdvantages]:
    """Advantages in finite groups and in the limit, expected over what p may be."""
    grid, posterior = torch.from_numpy(fit.grid), torch.from_numpy(fit.posterior)
    both = torch.stack((1 - grid, grid), 1)
    every = group_advantages(values, both, method, group_size, most=group_size)

    def mean(x: Tensor) -> Tensor:
        return torch.einsum("np,p...->n...", posterior, x)

    # What an advantage can be does not depend on p, only how likely it is; reinforce's are fixed.
    nodes, weights = pooled_nodes(mean(every.weights), every.nodes[:1])
    slope = mean(every.slope)
    finite = GroupAdvantages(values, mean(every.expected), nodes, weights, slope, True)
    p = posterior @ grid
    step = float(values[1] - values[0])
    slope = torch.ones_like(p)
    if method == "grpo":
        slope = torch.from_numpy(fit.expected(inverse_deviation(fit.grid, step)))
    centre = 0.0 if method == "reinforce" else values[0] + step * p
    return finite, _affine(values, slope, torch.zeros_like(p) + centre)


def state_signals(
    scores: Float[Tensor, "N n D"], given: Rewarded, *, own: bool = True
) -> dict[Method, GradientSignals]:
    """Slope, Σ, alignment and both Λ of states; ``own`` where the rollouts are those of ``given``.

    Else the states are deeper ones, whose rollouts do not decide their prompts' advantages.
    """
    wide, r = scores.double().cpu(), given.rewards
    squared, gram = squared_norm(wide, r), wide @ wide.mT
    found = _two_valued if given.pair is not None else _graded
    return {m: found(m, wide, gram, squared, given, own) for m in given.finite}


def _two_valued(
    m: Method, wide: Tensor, gram: Tensor, squared: Tensor, given: Rewarded, own: bool
) -> GradientSignals:
    finite, limit, n = given.finite[m], given.limit[m], wide.shape[1]
    aligned, aligned_limit = finite.slope * squared, limit.slope * squared
    fit = fitted(given.hit)
    if m == "grpo" and own:
        # E[ψ ‖G‖²], for both are of the same rollouts.
        k, size, step = successes(given.hit), given.group_size, given.step
        slopes = group_signal_slopes(k, n, size, step), signal_slopes(fit, k, n, step)
        aligned = torch.from_numpy(slopes[0]) * squared
        aligned_limit = torch.from_numpy(slopes[1]) * squared
    p = torch.from_numpy(fit.expected(fit.grid))
    errors = [two_valued_costate_error(gram, given.hit, p, group) for group in (finite, limit)]
    return GradientSignals(
        slope=finite.slope,
        sigma=squared,
        alignment=aligned,
        lambda_conditional=(finite.slope - 1).sign() * (aligned - squared),
        lambda_sample=errors[0],
        alignment_population=aligned_limit,
        lambda_conditional_population=(limit.slope - 1).sign() * (aligned_limit - squared),
        lambda_sample_population=errors[1],
    )


def _graded(
    m: Method, wide: Tensor, gram: Tensor, squared: Tensor, given: Rewarded, own: bool
) -> GradientSignals:
    finite, limit, r = given.finite[m], given.limit[m], given.rewards
    n, slope = r.shape[1], finite.slope
    aligned, aligned_limit = slope * squared, limit.slope * squared
    apart = (slope - 1).sign() * (aligned - squared)
    kinds = nearest(finite.values, r)
    if not finite.affine:
        signal = finite.expected.gather(1, kinds)
        aligned = inner_product(wide, signal, r)
        if m == "grpo" and own:
            signal = mean_advantages(r, m, given.group_size)
            aligned = _parted(gram, r, given.group_size)
        # E[λ̂|h] − G = Cov(Ā − R, s); a product of two roots, so biased by order 1/n.
        distance = squared_norm(wide, signal - r).clamp(min=0).sqrt()
        apart = squared.clamp(min=0).sqrt() * distance
    if m == "grpo" and own:
        aligned_limit = half_sample_corrected(
            lambda i: _inverse_deviations(r[:, i]) * squared_norm(wide[:, i], r[:, i]), n
        )
    errors = [costate_error(gram, r, squared, kinds, group) for group in (finite, limit)]
    return GradientSignals(
        slope=slope,
        sigma=squared,
        alignment=aligned,
        lambda_conditional=apart,
        lambda_sample=errors[0],
        alignment_population=aligned_limit,
        lambda_conditional_population=(limit.slope - 1).sign() * (aligned_limit - squared),
        lambda_sample_population=errors[1],
    )


def _parted(gram: Tensor, r: Tensor, group_size: int) -> Tensor:
    """⟨E[λ̂|h], G⟩ without bias: λ̂ of a group against G of the rollouts outside of it."""
    n, generator, total = r.shape[1], torch.Generator().manual_seed(0), torch.zeros(len(r)).to(r)
    for _ in range(PARTS):
        order = torch.randperm(n, generator=generator)
        group, rest = order[:group_size], order[group_size:]
        signal = mean_advantages(r[:, group], "grpo", group_size) / group_size
        centred = (r[:, rest] - r[:, rest].mean(1, keepdim=True)) / (len(rest) - 1)
        between = gram[:, group][:, :, rest]
        total += torch.einsum("ni,nij,nj->n", signal, between, centred)
    return total / PARTS


def _inverse_deviations(values: Float[Tensor, "N n"]) -> Float[Tensor, " N"]:
    """1/(σ + ξ) of each group; 0 where all rewards are equal, whatever 1/ξ makes of rounding."""
    return torch.where(zero_spread(values), 0.0, 1 / (values.std(1) + XI))


def half_sample_corrected(estimate: Callable[[slice], Tensor], n: int) -> Tensor:
    """Take off a bias that falls as 1/n: 2 T(n) − mean T(n/2) over the halves (Quenouille 1949)."""
    whole, half = estimate(slice(None)), n // 2
    if half < LEAST:
        return whole  # There are no halves of 4.
    halves = estimate(slice(0, half)) + estimate(slice(half, 2 * half))
    return 2 * whole - halves / 2


def successes(hit: Float[Tensor, "N n"]) -> np.ndarray:
    """How many rollouts of each prompt earned the higher reward."""
    return np.asarray(hit.sum(1).round().long())


def fitted(hit: Float[Tensor, "N n"]) -> Mixing:
    """The distribution of success probabilities over prompts (`mixing`)."""
    return _fit_to(tuple(successes(hit).tolist()), hit.shape[1])


@lru_cache(maxsize=4)
def _fit_to(counts: tuple[int, ...], rollouts: int) -> Mixing:
    # Headroom, slopes and errors of one measurement rest on the same fit.
    return mixing(np.array(counts), rollouts)
