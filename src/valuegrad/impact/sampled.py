"""Eqs. 24 to 28 from rollouts, for any reward: unbiased where an unbiased estimate exists.

A group of n rollouts shares the prompt's last state, so it gives G there for free; deeper states
get groups of their own. Σ is the U-centred estimate of `squared_norm` (correction C), and the
alignment in groups of a size that the rollouts can make up is unbiased too. What bends in the
reward's distribution (headroom, norms, 1/σ) has no unbiased estimate: of two rewards it is expected
over the fitted mixture of success probabilities (`mixing`), of others corrected by half samples.

N prompts · n rollouts of each
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import hypergeom
from torch import Tensor

from valuegrad.budget import METHODS, Budget, Method
from valuegrad.credit.scores import prompt_state_scores
from valuegrad.errors import UserError
from valuegrad.impact.headroom import headroom
from valuegrad.impact.mixing import Mixing, pseudo_values
from valuegrad.impact.outcomes import check_alpha, half_way, success, two_values
from valuegrad.impact.pooled import elasticity, pooled_rows
from valuegrad.impact.rollout_signals import (
    LEAST,
    fitted,
    half_sample_corrected,
    rewarded,
    state_signals,
    successes,
)
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
from valuegrad.model.batches import entropies, prompt_states
from valuegrad.model.policy import Policy, Site
from valuegrad.sampler import Rollouts, check_log_probabilities

__all__ = ["measure", "rewards", "reweighted_update", "update"]


def measure(
    policy: Policy,
    drawn: Rollouts,
    *,
    methods: Sequence[Method] = METHODS,
    site: Site = "final",
    alpha: float = ALPHA,
    group_size: int = Budget.group_size,
    prompts_per_update: int = Budget.prompts_per_update,
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
    check_rollouts(n, group_size)
    groups = [(range(len(drawn.rewards)), drawn), *([deeper] if deeper else [])]
    every = torch.cat([group.rewards.flatten() for _, group in groups]).double()
    pair = two_values(every)
    values = torch.tensor(pair, dtype=torch.float64) if pair else torch.unique(every)
    check_alpha(values, alpha)
    entropy = entropies(policy, prompt_states(policy, drawn.prefixes)).cpu()
    moments = _moments(drawn.rewards, entropy, alpha, group_size, pair, success(values))
    given = rewarded(drawn.rewards, pair, methods, group_size, prompts_per_update)
    found: dict[Method, list[GradientSignals]] = {m: [] for m in methods}
    difference = 0.0
    for prompts, group in groups:
        scores, logp = prompt_state_scores(policy, group, site)
        difference = max(difference, check_log_probabilities(policy, group.logp, logp))
        own = group is drawn
        here = given if own else given.at(list(prompts), group.rewards.double())
        for m, signals in state_signals(scores, here, own=own).items():
            found[m].append(signals)
    owners = torch.tensor([prompt for prompts, _ in groups for prompt in prompts])
    pseudo = moments.headroom
    if pair:
        counts = successes((drawn.rewards == pair[1]).double())
        jackknifed = pseudo_values(counts, n, lambda fit: _expected_headroom(fit, alpha, pair))
        pseudo = torch.from_numpy(jackknifed)
    impacts = {}
    for m in methods:
        rows = Signals(**vars(moments), **_by_prompt(found[m], owners))
        uncertain = replace(rows, headroom=pseudo)
        if m == "ppo":
            # By the scale: Λ_sample of large Â is proportional to it.
            changes = _error_of(rows), torch.zeros_like(rows.sigma)
            sizes = group_size, prompts_per_update
            seen = elasticity(given.values, given.mass, rows.sigma.clamp(min=0), *sizes)
            uncertain = pooled_rows(uncertain, changes, seen, strata)
        options = (alpha, group_size, rows, uncertain)
        impacts[m] = summarise(
            m, site, *options, sampled=True, middle=half_way(values), strata=strata
        )
    return impacts, difference


def check_rollouts(rollouts: int, group_size: int) -> None:
    """Refuse too few rollouts of a prompt for the unbiased estimates."""
    least = max(LEAST, group_size + 2)
    if rollouts < least:
        wanted = f"at least {least}: a group of {group_size} and two others"
        raise UserError("rollouts", str(rollouts), wanted, "raise it, or lower `group_size`")


def _error_of(rows: Signals) -> Tensor:
    norm = rows.sigma.clamp(min=0).sqrt()
    return torch.where(norm > 0, rows.lambda_sample / norm, 0.0)


def rewards(drawn: Rollouts) -> Float[Tensor, " N"]:
    """The mean reward of each prompt's rollouts."""
    return drawn.rewards.mean(1)


def sampled_headrooms(
    values: Float[Tensor, "N n"], alpha: float, pair: tuple[float, float] | None
) -> Float[Tensor, " N"]:
    """H_α (Eq. 28) of each prompt from rollouts: by the fit to two rewards, or half samples."""
    if pair:
        hit = (values.double() == pair[1]).double()
        return torch.from_numpy(_expected_headroom(fitted(hit), alpha, pair))
    return half_sample_corrected(lambda part: headroom(values[:, part], alpha), values.shape[1])


def _expected_headroom(fit: Mixing, alpha: float, pair: tuple[float, float]) -> np.ndarray:
    outcome = torch.tensor([pair[1], pair[0]]).double().expand(len(fit.grid), 2)
    p = torch.from_numpy(np.stack((fit.grid, 1 - fit.grid), 1))
    return fit.expected(headroom(outcome, alpha, p).numpy())


def _by_prompt(parts: Sequence[GradientSignals], owners: Tensor) -> dict[str, Tensor]:
    """The mean over each prompt's states."""
    count = owners.bincount().double()
    return {
        name: torch.bincount(owners, torch.cat([getattr(part, name) for part in parts])) / count
        for name in vars(parts[0])
    }


def _moments(
    rewards: Float[Tensor, "N n"],
    entropy: Float[Tensor, " N"],
    alpha: float,
    group_size: int,
    pair: tuple[float, float] | None,
    least: float,
) -> RewardMoments:
    values, n = rewards.double(), rewards.shape[1]
    counts = [torch.unique(group, return_counts=True)[1].numpy() for group in values]
    right = (values >= least).sum(1).numpy()
    # Groups drawn from the rollouts without replacement: unbiased (Chen et al. 2021).
    some = torch.from_numpy(1 - hypergeom.pmf(group_size, n, n - right, group_size))
    return RewardMoments(
        reward=values.mean(1),
        reward_variance=values.var(1),
        entropy=entropy,
        headroom=sampled_headrooms(values, alpha, pair),
        log_tilt=torch.logsumexp(alpha * values, 1) - np.log(n),
        pass_at_k=torch.full_like(some, torch.nan) if least != least else some,
        zero_spread=torch.tensor(
            [hypergeom.pmf(group_size, n, c, group_size).sum() for c in counts], dtype=torch.float64
        ),
    )
