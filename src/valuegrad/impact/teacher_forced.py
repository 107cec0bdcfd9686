"""Impact in closed form for exact answers of any length (theory §6, identity F).

The reward of a completion is Bernoulli with p = V = π(y|q), so everything that depends on
expectations follows from V and G. Λ_sample needs every other completion too; at ``"final"`` their
costates depend on the first token alone, so that it is a sum over the vocabulary there as well, and
below it is averaged over rollouts.

N prompts · B of them · D width · V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.credit.answer_gradients import AnswerGradients, answer_gradients
from valuegrad.credit.completions import completions
from valuegrad.credit.costates import costates_at
from valuegrad.credit.score_geometry import centred_head, final_geometry
from valuegrad.credit.scores import prompt_state_scores
from valuegrad.credit.value_gradient import head_chunks, probabilities
from valuegrad.impact.headroom import log_mean_exp
from valuegrad.impact.signal import Columns, Impact, check_settings, summarise, tilted_columns
from valuegrad.methods import METHODS, Method, PopulationAdvantages, population_advantages
from valuegrad.model.policy import Policy, Site
from valuegrad.prompts import CompletionPrompts
from valuegrad.sampler import Rollouts, check_log_probabilities


def measure_exact_answers(
    policy: Policy,
    prompts: CompletionPrompts,
    *,
    methods: Sequence[Method] = METHODS,
    site: Site = "final",
    alpha: float = 5.0,
    group_size: int = 16,
    drawn: Rollouts | None = None,
) -> dict[Method, Impact]:
    """Measure everything of theory §6 for several methods at once, by teacher forcing.

    Args:
        policy: the policy.
        prompts: with an exact reward.
        methods: which critic-free methods.
        site: ``"embedding"``, a block's number or ``"final"``.
        alpha: tilt of the headroom (Eq. 28), above 0.
        group_size: completions of a group, for pass@k and zero-spread groups.
        drawn: rollouts of the prompts, which Λ_sample needs at a site below ``"final"``; without
            them it is NaN there.

    Returns:
        One `Impact` a method.

    Raises:
        UserError: as `answer_gradients` and `check_settings`.
        RunError: the draws are not the policy's.
    """
    check_settings(alpha, group_size)
    found = answer_gradients(policy, prompts, site)
    value = found.value[:, 0]
    shared = bernoulli_columns(value, alpha, group_size)
    with torch.no_grad():
        shared["entropy"] = state_entropies(policy, found.final).cpu().numpy()
        squared = found.gradient[:, 0].double().square().sum(1)
        populations = {m: population_advantages(value, value * (1 - value), m) for m in methods}
        if found.site == "final":
            errors = _over_vocabulary(policy, prompts, found, populations)
    if found.site != "final":
        errors = dict.fromkeys(methods, torch.full_like(squared, torch.nan))
        if drawn is not None:
            errors = _over_rollouts(policy, prompts, drawn, found, populations)
    result = {}
    for m, population in populations.items():
        slope = population.slope
        columns = {
            "slope": slope,
            "sigma": squared,
            "alignment": slope * squared,
            "lambda_conditional": (slope - 1).abs() * squared,
            "lambda_sample": squared.sqrt() * errors[m],
        }
        rows = shared | {name: values.cpu().numpy() for name, values in columns.items()}
        result[m] = summarise(m, found.site, alpha, group_size, rows)
    return result


def bernoulli_columns(value: Float[Tensor, " N"], alpha: float, group_size: int) -> Columns:
    """What follows from a reward that is 1 with probability V and 0 otherwise."""
    p = torch.stack((value, 1 - value), 1)
    rewards = torch.tensor([1.0, 0.0], dtype=p.dtype, device=p.device)
    headroom = log_mean_exp(p, alpha * (rewards - value[:, None])) / alpha
    columns = {
        "reward": value,
        "reward_variance": value * (1 - value),
        "headroom": headroom,
        "pass_at_k": -torch.expm1(group_size * torch.log1p(-value)),
        "zero_spread": value**group_size + (1 - value) ** group_size,
    }
    found = {name: values.cpu().numpy() for name, values in columns.items()}
    log_tilts: np.ndarray = alpha * (found["headroom"] + found["reward"])
    return found | tilted_columns(alpha, log_tilts, found["reward"])


def state_entropies(policy: Policy, states: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """Entropy of the next token at given ``"final"`` states, nats."""
    found = torch.empty(len(states), dtype=torch.float64, device=states.device)
    for rows in head_chunks(policy, len(states)):
        p = probabilities(policy, states[rows])
        found[rows] = -torch.xlogy(p, p).sum(1)
    return found


def _over_vocabulary(
    policy: Policy,
    prompts: CompletionPrompts,
    found: AnswerGradients,
    populations: dict[Method, PopulationAdvantages],
) -> dict[Method, Float[Tensor, " N"]]:
    """E‖λ̂ − G‖ at ``"final"``, where λ̂ = Â (W_a − w̄) for the first token a alone."""
    head, value = centred_head(policy.head), found.value[:, 0]
    errors = {m: torch.empty_like(value) for m in populations}
    for rows in head_chunks(policy, len(prompts)):
        p = probabilities(policy, found.final[rows])
        gradient = found.gradient[rows, 0]
        geometry = final_geometry(head, p.to(policy.head.dtype) @ policy.head, gradient)
        first = torch.tensor([prompts.answers[row][0] for row in rows], device=p.device)[:, None]
        right = value[rows, None]
        wrong = p.scatter_add(1, first, -right).clamp_(min=0)
        own = gradient.double().square().sum(1, keepdim=True)

        def distance(advantage: Tensor, squared: Tensor, along: Tensor, own: Tensor) -> Tensor:
            return (advantage.square() * squared - 2 * advantage * along + own).clamp(min=0).sqrt()

        for m, population in populations.items():
            here = population.at(rows)
            low, high = ((here.slope * (reward - here.baseline))[:, None] for reward in (0.0, 1.0))
            missed = distance(low, geometry.squared_norm, geometry.projection, own)
            hit = distance(
                high,
                geometry.squared_norm.gather(1, first),
                geometry.projection.gather(1, first),
                own,
            )
            errors[m][rows] = (wrong * missed).sum(1) + (right * hit)[:, 0]
    return errors


def _over_rollouts(
    policy: Policy,
    prompts: CompletionPrompts,
    drawn: Rollouts,
    found: AnswerGradients,
    populations: dict[Method, PopulationAdvantages],
) -> dict[Method, Float[Tensor, " N"]]:
    """E‖λ̂ − G‖ below ``"final"``: the answer's own share exact, the rest a mean over rollouts.

    A prompt whose n rollouts all earn 1 gives no rest, which happens with chance Vⁿ: the others
    weigh 1/(1 − Vⁿ), so that the mean over draws is right.
    """
    value, gradient = found.value[:, 0], found.gradient[:, 0].double()
    scores, logp = prompt_state_scores(policy, drawn, found.site)
    check_log_probabilities(policy, drawn, logp)
    scores = scores.double()
    own_chance, own_scores = _accepted_scores(policy, prompts, found.site)
    wrong = (drawn.rewards.to(value) < 1).double()
    misses = wrong.sum(1).clamp(min=1)
    some = -torch.expm1(wrong.shape[1] * value.log())
    share = torch.where(value < 1, (1 - value) / some, 0.0)
    errors = {}
    for m, population in populations.items():
        low, high = (
            (population.slope * (reward - population.baseline))[:, None, None]
            for reward in (0.0, 1.0)
        )
        missed = torch.linalg.vector_norm(low * scores - gradient[:, None], dim=2)
        hit = torch.linalg.vector_norm(high * own_scores - gradient[:, None], dim=2)
        errors[m] = share * (wrong * missed).sum(1) / misses + (own_chance * hit).sum(1)
    return errors


def _accepted_scores(
    policy: Policy, prompts: CompletionPrompts, site: Site
) -> tuple[Float[Tensor, "N S"], Float[Tensor, "N S D"]]:
    """Probability and score vector of each completion that earns 1, one for every stop token."""
    accepted = [prompts.accepted(row) for row in range(len(prompts))]
    pairs = [(tokens, c) for tokens, own in zip(prompts.tokens, accepted, strict=True) for c in own]
    ones = torch.ones(len(pairs), dtype=policy.head.dtype)
    batch = completions(policy, [(*t, *c) for t, c in pairs], [len(t) for t, _ in pairs], ones)
    own = costates_at(policy, batch, (site,), split=False)[site]
    shape = (len(prompts), len(accepted[0]))
    return own.logp.double().sum(1).exp().view(shape), own.total[:, 0].double().view(*shape, -1)
