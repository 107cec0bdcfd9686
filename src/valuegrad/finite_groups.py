"""Advantages expected over finite groups: what a method's mean costate is made of (theory §7.1).

An advantage depends on the own reward r and on the rewards of the others in its group, or for ppo
in its batch. With Ā(r) = E[Â | r] the expected costate at a state is Σ_o π(o) Ā(R(o)) s_o: for two
rewards it is ψ · G, ψ = (Ā(r₁) − Ā(r₀)) / (r₁ − r₀), and only for infinitely large groups G/σ.

The others' rewards are summed over, by how many earned which: multinomial, with probabilities from
the characteristic function by one fast Fourier transform; in small groups one by one. Where there
are too many ways, groups are drawn instead.

N prompts · K different rewards · J values that an advantage has given the own reward
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.budget import Budget, Method
from valuegrad.errors import UserError
from valuegrad.methods import XI, check_method, population_advantages

LATTICE = 30_000  # most counts of the others' rewards that are summed over exactly
COUNTED = 5  # most different rewards, of which the transform has a dimension each but one
DRAWS = 2048  # groups drawn where there are more, from Sobol's sequence
NODES = 32  # most values that an advantage is kept with; more are pooled into `POOLED`
POOLED = 16
ELEMENTS = 2**22  # of prompts × counts held at once


@dataclass(frozen=True, eq=False)
class GroupAdvantages:
    """Advantages given the own reward, over the rewards of the others; made by `group_advantages`.

    Attributes:
        values: the different rewards, increasing, reward units.
        expected: Ā(r), of each prompt and reward.
        nodes, weights: the values that Â has given r, and their probabilities.
        slope: ψ = Cov(Ā, R) / Var R of each prompt; of two rewards their difference quotient.
        affine: whether Ā is ψ · (r − baseline), so that E[λ̂|h] = ψ G.
    """

    values: Float[Tensor, " K"]
    expected: Float[Tensor, "N K"]
    nodes: Float[Tensor, "N K J"]
    weights: Float[Tensor, "N K J"]
    slope: Float[Tensor, " N"]
    affine: bool

    def at(self, rows: list[int]) -> "GroupAdvantages":
        """The same for some of the prompts."""
        names = ("expected", "nodes", "weights", "slope")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})


def group_advantages(
    values: Float[Tensor, " K"],
    probabilities: Float[Tensor, "N K"],
    method: Method = "grpo",
    group_size: int = Budget.group_size,
    prompts_per_update: int = Budget.prompts_per_update,
    *,
    pool: Float[Tensor, "M K"] | None = None,
    most: int = NODES,
) -> GroupAdvantages:
    """The advantages of a method given the own reward, over the others of a finite group.

    For ``ppo`` the group is the batch: the other prompts of an update are drawn evenly and
    independently from those given.

    Args:
        values: the different rewards, increasing, reward units.
        probabilities: of each reward at each prompt, rows that sum to 1.
        method: one of `METHODS`.
        group_size: G, actions drawn a prompt.
        prompts_per_update: Q, prompts of a batch; only ``ppo`` depends on it.
        pool: of the rewards of each prompt that the others of a batch may be; the same by default.
        most: values that an advantage is kept with, beyond which neighbours are taken together.

    Returns:
        Their means and distributions, float64: exact up to 30,000 combinations of the others'
        rewards, beyond that over 2,048 groups of a Sobol sequence, always the same ones.

    Raises:
        UserError: an unknown method, a group size below 2, probabilities that do not fit.

    Example:
        >>> zero_one, p = torch.tensor([0.0, 1.0]), torch.tensor([[0.5, 0.5]]).double()
        >>> group_advantages(zero_one, p, "dr_grpo", 4).expected  # (1 − 1/4) (r − 1/2)
        tensor([[-0.3750,  0.3750]], dtype=torch.float64)
    """
    check_method(method)
    v, p = values.double(), probabilities.double()
    if group_size < 2 or prompts_per_update < 1:
        got = f"group_size={group_size}, prompts_per_update={prompts_per_update}"
        raise UserError("group_size", got, "2 or more, of 1 prompt or more", "raise it")
    if p.dim() != 2 or p.shape[1] != len(v) or ((p.sum(1) - 1).abs() > 1e-6).any():
        got, wanted = f"shape {tuple(p.shape)}", f"(N, {len(v)}), rows that sum to 1"
        raise UserError("probabilities", got, wanted, "normalise them over the rewards")
    one, mean = p.new_ones(len(p)), (p * v).sum(1, keepdim=True)
    if method == "reinforce":
        return _certain(v, v.expand_as(p), one)
    if len(v) == 1:
        return _certain(v, torch.zeros_like(p), one)
    # Of rewards far from 0 the squares would hold nothing of their differences.
    own, v = v, v - v.mean()
    mean = (p * v).sum(1, keepdim=True)
    pool = p if pool is None else pool.double()
    others = _others(method, group_size, prompts_per_update)
    every = _drawn
    if len(v) == 2 or (len(v) <= COUNTED and (others + 1) ** (len(v) - 1) <= LATTICE):
        every = _counted
    elif others < group_size and len(v) ** others <= LATTICE:
        every = _enumerated
    parts = [
        (_mean(weights, found), *pooled_nodes(weights, found, most))
        for weights, found in every(v, p, pool, method, group_size, prompts_per_update)
    ]
    expected, nodes, weights = (torch.cat(part) for part in zip(*parts, strict=True))
    if method in ("dr_grpo", "rloo"):
        # Known in closed form, whatever the number of rewards.
        slope = one * (1 - 1 / group_size if method == "dr_grpo" else 1.0)
        expected = slope[:, None] * (v - mean)
    elif len(v) == 2:
        slope = (expected[:, 1] - expected[:, 0]) / (v[1] - v[0])
    else:
        variance = (p * (v - mean).square()).sum(1)
        covariance = (p * (v - mean) * expected).sum(1)
        slope = torch.where(variance > 0, covariance / variance, 0.0)
    affine = len(v) == 2 or method in ("dr_grpo", "rloo")
    return GroupAdvantages(own, expected, nodes, weights, slope, affine)


def limit_advantages(
    values: Float[Tensor, " K"], probabilities: Float[Tensor, "N K"], method: Method
) -> GroupAdvantages:
    """The limit of `group_advantages` for infinitely large groups: slope · (r − baseline)."""
    v, p = values.double(), probabilities.double()
    mean = (p * v).sum(1)
    variance = (p * (v - mean[:, None]).square()).sum(1)
    population = population_advantages(mean, variance, method)
    found = population.slope[:, None] * (v - population.baseline[:, None])
    return _certain(v, found, population.slope)


def _certain(v: Tensor, found: Tensor, slope: Tensor) -> GroupAdvantages:
    """Advantages that the own reward decides."""
    return GroupAdvantages(
        v, found, found[:, :, None], torch.ones_like(found)[:, :, None], slope, True
    )


# Of some prompts at a time the probabilities (B, K, J) of what the others earned, and Â (B, K, J);
# either may have 1 in the place of B or K.
_Parts = Iterator[tuple[Tensor, Tensor]]


def _others(method: Method, group_size: int, prompts: int) -> int:
    return group_size * (prompts if method == "ppo" else 1) - 1


def _counted(
    v: Tensor, p: Tensor, pool: Tensor, method: Method, group_size: int, prompts: int
) -> _Parts:
    """Every way in which the others can be rewarded, by how many of them earn each reward."""
    others, free = _others(method, group_size, prompts), len(v) - 1
    shape = (others + 1,) * free
    axes = [torch.arange(others + 1, dtype=torch.float64, device=v.device)] * free
    counts = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, free)
    rest = others - counts.sum(1)
    possible = rest >= 0
    counts = torch.cat((rest[:, None], counts), 1)[possible]
    found = _advantages(v, counts @ v, counts @ v.square(), others + 1, method)[None]
    # Two rewards in a group, the usual case, to full relative precision.
    if method != "ppo" and free == 1:
        log_ways = torch.lgamma(torch.tensor(others + 1.0, dtype=torch.float64, device=v.device))
        log_ways = log_ways - torch.lgamma(counts + 1).sum(1)
        yield (log_ways + torch.xlogy(counts, p[:, None]).sum(2)).exp()[:, None], found
        return
    waves = torch.polar(torch.ones_like(axes[0]), -2 * math.pi * axes[0] / (others + 1))

    def wave(some: Tensor) -> Tensor:
        """Σ_k p_k e^{−iω_k}, the characteristic function of one action, over all frequencies."""
        total = some[:, 0].to(waves).view(-1, *[1] * free)
        for k in range(free):
            along = [1] * (free + 1)
            along[k + 1] = others + 1
            total = total + some[:, k + 1].to(waves).view(-1, *[1] * free) * waves.view(along)
        return total

    step = max(1, ELEMENTS // (len(counts) * len(v)))
    rest_of_batch = None
    if method == "ppo" and prompts > 1:
        sums = [wave(part).pow(group_size).sum(0) for part in torch.split(pool, step)]
        rest_of_batch = (torch.stack(sums).sum(0) / len(pool)).pow(prompts - 1)
    for part in torch.split(p, step):
        transform = wave(part).pow(group_size - 1)
        transform = transform if rest_of_batch is None else transform * rest_of_batch
        chance = torch.fft.ifftn(transform, s=shape, dim=tuple(range(1, free + 1))).real
        yield chance.reshape(len(part), -1)[:, possible].clamp(min=0)[:, None], found


def _enumerated(
    v: Tensor, p: Tensor, pool: Tensor, method: Method, group_size: int, prompts: int
) -> _Parts:
    """Every reward of each of the others, of whom there are few."""
    others = group_size - 1
    kinds = torch.cartesian_prod(*[torch.arange(len(v), device=v.device)] * others)
    kinds = kinds.view(-1, others)
    found = _advantages(v, v[kinds].sum(1), v[kinds].square().sum(1), group_size, method)[None]
    for part in torch.split(p, max(1, ELEMENTS // (len(kinds) * len(v)))):
        yield part[:, kinds].prod(2)[:, None], found


def _drawn(
    v: Tensor, p: Tensor, pool: Tensor, method: Method, group_size: int, prompts: int
) -> _Parts:
    """As many groups of others as `DRAWS`, from the same numbers at every prompt."""
    size = _others(method, group_size, prompts) + 1
    wanted = size - 1 + (prompts - 1 if method == "ppo" else 0)
    if wanted <= torch.quasirandom.SobolEngine.MAXDIM:
        sobol = torch.quasirandom.SobolEngine(  # type: ignore[no-untyped-call]
            wanted, scramble=True, seed=0
        )
        sequence = sobol.draw(DRAWS, dtype=torch.float64).to(v.device)
    else:
        generator = torch.Generator().manual_seed(0)
        sequence = torch.rand(DRAWS, wanted, generator=generator, dtype=torch.float64).to(v.device)

    def earned(chances: Tensor, at: Tensor) -> Tensor:
        """Rewards at the quantiles, for prompts (B, K) or one prompt a draw (DRAWS, K)."""
        which = torch.searchsorted(chances.cumsum(-1).contiguous(), at.contiguous(), right=True)
        return v[which.clamp(max=len(v) - 1)]

    own, rest = sequence[:, : group_size - 1], sequence[:, group_size - 1 :]
    other = v.new_zeros(DRAWS, 0)
    if method == "ppo":
        whose = (rest[:, : prompts - 1] * len(pool)).long().clamp(max=len(pool) - 1)
        numbers = rest[:, prompts - 1 :].reshape(DRAWS, prompts - 1, group_size)
        # In an order of their own, so that the one that they are given in makes no difference.
        order = sorted(range(len(pool)), key=lambda row: pool[row].tolist())
        ordered = pool[torch.tensor(order)]
        columns = [earned(ordered[whose[:, q]], numbers[:, q]) for q in range(prompts - 1)]
        other = torch.cat([other, *columns], 1)
    for part in torch.split(p, max(1, ELEMENTS // (DRAWS * max(len(v), group_size)))):
        group = earned(part, own.reshape(1, -1).expand(len(part), -1)).view(len(part), DRAWS, -1)
        total = group.sum(2) + other.sum(1)
        squares = group.square().sum(2) + other.square().sum(1)
        equal = v.new_full((1, 1, DRAWS), 1 / DRAWS)
        yield equal, _advantages(v, total, squares, size, method)


def _advantages(v: Tensor, total: Tensor, squares: Tensor, size: int, method: Method) -> Tensor:
    """Â of each reward (…, K, J) beside others with a sum and a sum of squares (…, J)."""
    own = v[:, None]
    mean = (total[..., None, :] + own) / size
    if method == "rloo":
        return (own - mean) * (size / (size - 1))
    if method == "dr_grpo":
        return own - mean
    spread = (squares[..., None, :] + own.square() - size * mean.square()).clamp(min=0)
    # A sum of squares rounds where all rewards are equal; Â is 0 there.
    least = 1e-12 * size * v.abs().max().square()
    deviation = (spread / (size - 1)).sqrt()
    return torch.where(spread > least, (own - mean) / (deviation + XI), 0.0)


def _mean(weights: Tensor, found: Tensor) -> Tensor:
    return (weights * found).sum(2) / weights.sum(2)


def pooled_nodes(weights: Tensor, found: Tensor, most: int = NODES) -> tuple[Tensor, Tensor]:
    """Values and probabilities, where they are more than ``most`` means of likely neighbours."""
    weights, found = weights / weights.sum(2, keepdim=True) + 0 * found, found + 0 * weights
    if found.shape[2] <= most:
        return found, weights
    order = found.argsort(2)
    found, weights = found.gather(2, order), weights.gather(2, order)
    # Finer at the tails, which a norm over the distribution sees.
    angle = (1 - 2 * (weights.cumsum(2) - weights / 2)).clamp(-1, 1).acos() / math.pi
    which = (angle * POOLED).long().clamp(max=POOLED - 1)
    mass = found.new_zeros(*found.shape[:2], POOLED).scatter_add_(2, which, weights)
    moment = torch.zeros_like(mass).scatter_add_(2, which, weights * found)
    return torch.where(mass > 0, moment / mass, 0.0), mass
