"""Eqs. 24 to 28 from rollouts, for any reward: unbiased where an unbiased estimate exists.

A group of n rollouts shares the prompt's last state, so it gives G there for free; deeper states
get groups of their own. Σ is the U-centred estimate of `squared_norm` (correction C). What bends in
the reward's distribution (headroom, 1/σ, norms) has no unbiased estimate: with rewards 0 or 1 it is
expected over the fitted mixture of success probabilities (`mixing`, `signal_slopes`), otherwise
corrected by half samples.

N prompts · n rollouts of each · D width
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import hypergeom
from torch import Tensor

from valuegrad.budget import METHODS, Budget, Method
from valuegrad.credit.scores import prompt_state_scores
from valuegrad.credit.squared_norm import squared_norm
from valuegrad.errors import UserError
from valuegrad.impact.costate_error import costate_error, two_valued_costate_error
from valuegrad.impact.headroom import headroom
from valuegrad.impact.mixing import Mixing, mixing, pseudo_values
from valuegrad.impact.sampled_update import reweighted_update, update
from valuegrad.impact.settings import ALPHA
from valuegrad.impact.signal import (
    GradientSignals,
    Impact,
    RewardMoments,
    Signals,
    check_settings,
    summarise,
)
from valuegrad.impact.signal_slopes import inverse_deviation, signal_slopes
from valuegrad.methods import XI, PopulationAdvantages, population_advantages
from valuegrad.model.batches import entropies, prompt_states
from valuegrad.model.policy import Policy, Site
from valuegrad.sampler import Rollouts, check_log_probabilities

__all__ = ["measure", "rewards", "reweighted_update", "update"]

LEAST = 4  # rollouts that an unbiased estimate needs


def measure(
    policy: Policy,
    drawn: Rollouts,
    *,
    methods: Sequence[Method] = METHODS,
    site: Site = "final",
    alpha: float = ALPHA,
    group_size: int = Budget.group_size,
    deeper: tuple[Sequence[int], Rollouts] | None = None,
    strata: Sequence[str] | None = None,
) -> tuple[dict[Method, Impact], float]:
    """Measure everything of theory §6 from groups of rollouts, one a prompt.

    ``deeper`` are further states with groups of their own, and the number of each one's prompt; Σ,
    Λ and alignment are averaged over a prompt's states first. Beside the impacts this returns by
    how much the log-probabilities of the draws differ from those of a forward pass, in nats.
    """
    check_settings(alpha, group_size)
    n = drawn.rewards.shape[1]
    if n < max(LEAST, group_size):
        wanted = (
            f"at least {max(LEAST, group_size)}: the unbiased estimator needs {LEAST}, pass@k and "
            "zero-spread groups as many as the group size"
        )
        raise UserError("rollouts", str(n), wanted, "raise it, or lower `group_size`")
    groups = [(range(len(drawn.rewards)), drawn), *([deeper] if deeper else [])]
    binary = all(binary_rewards(group.rewards) for _, group in groups)
    entropy = entropies(policy, prompt_states(policy, drawn.prefixes)).cpu()
    moments = _moments(drawn.rewards, entropy, alpha, group_size, binary)
    populations = sampled_populations(drawn.rewards, methods, binary)
    found: dict[Method, list[GradientSignals]] = {m: [] for m in methods}
    difference = 0.0
    for prompts, group in groups:
        scores, logp = prompt_state_scores(policy, group, site)
        difference = max(difference, check_log_probabilities(policy, group.logp, logp))
        # A completion has one advantage at all of its states: its prompt's.
        given = {m: p.at(list(prompts)) for m, p in populations.items()}
        own = None if group is drawn else given
        for m, signals in state_signals(scores, group.rewards, methods, binary, own).items():
            found[m].append(signals)
    owners = torch.tensor([prompt for prompts, _ in groups for prompt in prompts])
    pseudo = moments.headroom
    if binary:
        counts = _successes(drawn.rewards)
        jackknifed = pseudo_values(counts, n, lambda fit: _expected_headroom(fit, alpha))
        pseudo = torch.from_numpy(jackknifed)
    impacts = {}
    for m in methods:
        rows = Signals(**vars(moments), **_by_prompt(found[m], owners))
        uncertain = replace(rows, headroom=pseudo)
        impacts[m] = summarise(m, site, alpha, group_size, rows, uncertain, strata)
    return impacts, difference


def rewards(drawn: Rollouts) -> Float[Tensor, " N"]:
    """The mean reward of each prompt's rollouts."""
    return drawn.rewards.mean(1)


def binary_rewards(values: Tensor) -> bool:
    """Whether every reward is 0 or 1."""
    return bool(torch.isin(values, torch.tensor([0.0, 1.0], dtype=values.dtype)).all())


def sampled_headrooms(
    values: Float[Tensor, "N n"], alpha: float, binary: bool
) -> Float[Tensor, " N"]:
    """H_α (Eq. 28) of each prompt from rollouts: by the fit to rewards 0 or 1, or half samples."""
    if binary:
        return torch.from_numpy(_expected_headroom(_fit(values), alpha))
    return half_sample_corrected(lambda part: headroom(values[:, part], alpha), values.shape[1])


def _successes(values: Tensor) -> np.ndarray:
    return np.asarray(values.sum(1).round().long())


def _fit(values: Tensor) -> Mixing:
    return _fit_to(tuple(_successes(values).tolist()), values.shape[1])


@lru_cache(maxsize=4)
def _fit_to(counts: tuple[int, ...], rollouts: int) -> Mixing:
    # Headroom, slopes and errors of one measurement rest on the same fit.
    return mixing(np.array(counts), rollouts)


def _expected_headroom(fit: Mixing, alpha: float) -> np.ndarray:
    outcome = torch.tensor([[1.0, 0.0]]).double().expand(len(fit.grid), 2)
    p = torch.from_numpy(np.stack((fit.grid, 1 - fit.grid), 1))
    return fit.expected(headroom(outcome, alpha, p).numpy())


def _by_prompt(parts: Sequence[GradientSignals], owners: Tensor) -> dict[str, Tensor]:
    """The mean over each prompt's states."""
    count = owners.bincount().double()
    return {
        name: torch.bincount(owners, torch.cat([getattr(part, name) for part in parts])) / count
        for name in vars(parts[0])
    }


def state_signals(
    scores: Float[Tensor, "N n D"],
    rewards: Float[Tensor, "N n"],
    methods: Sequence[Method],
    binary: bool,
    populations: Mapping[Method, PopulationAdvantages] | None = None,  # of deeper states' prompts
) -> dict[Method, GradientSignals]:
    """Slope, Σ, alignment and both Λ of states, from the score vectors of their rollouts."""
    wide, r, n = scores.double().cpu(), rewards.double(), rewards.shape[1]
    squared, gram = squared_norm(wide, r), wide @ wide.mT
    own = populations is None
    populations = populations or sampled_populations(r, methods, binary)
    fit = _fit(r) if binary else None
    result = {}
    for m, population in populations.items():
        aligned = population.slope * squared
        if fit is not None:
            probability = torch.from_numpy(fit.expected(fit.grid))
            error = two_valued_costate_error(gram, r, probability, population)
        else:
            error = costate_error(gram, r, squared, population)
        # E[‖G‖²/(σ + ξ)], for σ and G are of the same rollouts.
        if m == "grpo" and own and fit is not None:
            aligned = torch.from_numpy(signal_slopes(fit, _successes(r), n)) * squared
        elif m == "grpo" and own:
            aligned = half_sample_corrected(
                lambda i: _inverse_deviations(r[:, i]) * squared_norm(wide[:, i], r[:, i]), n
            )
        gap = (population.slope - 1).sign() * (aligned - squared)
        result[m] = GradientSignals(population.slope, squared, aligned, gap, error)
    return result


def sampled_populations(
    rewards: Float[Tensor, "N n"], methods: Sequence[Method], binary: bool
) -> dict[Method, PopulationAdvantages]:
    """Slope and baseline of each prompt's advantages by method, from its rollouts."""
    values = rewards.double()
    mean, own = values.mean(1), _inverse_deviations(values)
    known = {m: population_advantages(mean, values.var(1, correction=0), m) for m in methods}
    if binary:
        # Expected over the values that p may have.
        fit = _fit(values)
        mean = torch.from_numpy(fit.expected(fit.grid))
        own = torch.from_numpy(fit.expected(inverse_deviation(fit.grid)))
    for m in known:
        if m not in ("ppo", "reinforce"):
            known[m] = PopulationAdvantages(own if m == "grpo" else known[m].slope, mean)
    return known


def _inverse_deviations(values: Float[Tensor, "N n"]) -> Float[Tensor, " N"]:
    """1/(σ + ξ) of each group; 0 where all rewards are equal, whatever 1/ξ makes of rounding."""
    return torch.where(values.amax(1) > values.amin(1), 1 / (values.std(1) + XI), 0.0)


def half_sample_corrected(estimate: Callable[[slice], Tensor], n: int) -> Tensor:
    """Take off a bias that falls as 1/n: 2 T(n) − mean T(n/2) over the halves (Quenouille 1949)."""
    whole, half = estimate(slice(None)), n // 2
    if half < LEAST:
        return whole  # There are no halves of 4.
    halves = estimate(slice(0, half)) + estimate(slice(half, 2 * half))
    return 2 * whole - halves / 2


def _moments(
    rewards: Float[Tensor, "N n"],
    entropy: Float[Tensor, " N"],
    alpha: float,
    group_size: int,
    binary: bool,
) -> RewardMoments:
    values, n = rewards.double(), rewards.shape[1]
    counts = [torch.unique(group, return_counts=True)[1].numpy() for group in values]
    right = (values >= 1).sum(1).numpy()
    return RewardMoments(
        reward=values.mean(1),
        reward_variance=values.var(1),
        entropy=entropy,
        headroom=sampled_headrooms(values, alpha, binary),
        log_tilt=torch.logsumexp(alpha * values, 1) - np.log(n),
        # Groups drawn from the rollouts without replacement: unbiased (Chen et al. 2021).
        pass_at_k=torch.from_numpy(1 - hypergeom.pmf(group_size, n, n - right, group_size)),
        zero_spread=torch.tensor(
            [hypergeom.pmf(group_size, n, c, group_size).sum() for c in counts], dtype=torch.float64
        ),
    )
