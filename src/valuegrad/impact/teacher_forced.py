"""Eqs. 24 to 28 in closed form for exact answers of any length (correction F).

The reward of a completion is Bernoulli with p = V = π(y|q), so that every expectation follows from
V and G. Λ_sample needs every other completion too; at ``"final"`` their costates depend on the
first token alone, so that it is a sum over the vocabulary there, and below it a mean over rollouts.

N prompts · B of them · D width · V vocabulary
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.budget import METHODS, Budget, Method
from valuegrad.credit.answer_gradients import (
    AnswerGradients,
    answer_gradients,
    answer_values,
    log_answer_values,
)
from valuegrad.credit.score_geometry import (
    ScoreGeometry,
    centred_head,
    final_geometry,
    mean_costate_error,
)
from valuegrad.credit.scores import prompt_state_scores, scored
from valuegrad.impact.headroom import log_mean_exp
from valuegrad.impact.settings import ALPHA
from valuegrad.impact.signal import Impact, RewardMoments, check_settings, signals, summarise
from valuegrad.impact.update import Update, expected_update, moving_parameters
from valuegrad.methods import PopulationAdvantages, population_advantages
from valuegrad.model.batches import entropies, head_chunks, probabilities
from valuegrad.model.policy import Policy, Site
from valuegrad.prompts import Prompts
from valuegrad.sampler import Rollouts, check_log_probabilities

rewards = answer_values


def measure(
    policy: Policy,
    prompts: Prompts,
    *,
    methods: Sequence[Method] = METHODS,
    site: Site = "final",
    alpha: float = ALPHA,
    group_size: int = Budget.group_size,
    drawn: Rollouts | None = None,  # for Λ_sample below "final", which is NaN without them
) -> dict[Method, Impact]:
    """Measure everything of theory §6 for several methods at once."""
    check_settings(alpha, group_size)
    found = answer_gradients(policy, prompts, site)
    value = found.value[:, 0]
    populations = {m: population_advantages(value, value * (1 - value), m) for m in methods}
    with torch.no_grad():
        moments = _moments(policy, found, alpha, group_size)
        squared = found.gradient[:, 0].double().square().sum(1)
    if found.site == "final":
        errors = _over_vocabulary(policy, prompts, found, populations)
    elif drawn is not None:
        errors = _over_rollouts(policy, prompts, drawn, found, populations)
    else:
        errors = dict.fromkeys(methods, torch.full_like(squared, torch.nan))
    return {
        m: summarise(
            m,
            found.site,
            alpha,
            group_size,
            signals(moments, population.slope, squared, errors[m]),
            strata=prompts.strata,
        )
        for m, population in populations.items()
    }


def update(policy: Policy, prompts: Prompts, method: Method) -> Update:
    """The gradient of mean_q slope_q π(y|q), slopes held fixed: no completion is sampled."""
    found = ((log_v.detach().exp(), log_v) for _, log_v in log_answer_values(policy, prompts))
    # ∇V = V ∇ log V.
    passes = ((value, value * (1 - value), log_v, value) for value, log_v in found)
    return expected_update(moving_parameters(policy), method, len(prompts), passes)


def _moments(
    policy: Policy, found: AnswerGradients, alpha: float, group_size: int
) -> RewardMoments:
    """What follows from a reward that is 1 with probability V and 0 otherwise."""
    value = found.value[:, 0]
    p = torch.stack((value, 1 - value), 1)
    outcomes = torch.tensor([1.0, 0.0], dtype=p.dtype, device=p.device)
    headroom = log_mean_exp(p, alpha * (outcomes - value[:, None])) / alpha
    return RewardMoments(
        reward=value,
        reward_variance=value * (1 - value),
        entropy=entropies(policy, found.final),
        headroom=headroom,
        log_tilt=alpha * (headroom + value),
        pass_at_k=-torch.expm1(group_size * torch.log1p(-value)),
        zero_spread=value**group_size + (1 - value) ** group_size,
    )


@torch.no_grad()
def _over_vocabulary(
    policy: Policy,
    prompts: Prompts,
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
        first = prompts.first_answers[rows].to(p.device)[:, None]
        right = value[rows, None]
        wrong = p.scatter_add(1, first, -right).clamp_(min=0)
        norm, along = (x.gather(1, first) for x in (geometry.squared_norm, geometry.projection))
        answered = ScoreGeometry(norm, along, gradient)
        for m, population in populations.items():
            here = population.at(rows)
            missed = mean_costate_error(wrong, torch.zeros_like(p), geometry, here)
            hit = mean_costate_error(right, torch.ones_like(right), answered, here)
            errors[m][rows] = missed + hit
    return errors


def _over_rollouts(
    policy: Policy,
    prompts: Prompts,
    drawn: Rollouts,
    found: AnswerGradients,
    populations: dict[Method, PopulationAdvantages],
) -> dict[Method, Float[Tensor, " N"]]:
    """E‖λ̂ − G‖ below ``"final"``: the answer's own share exact, the rest a mean over rollouts."""
    value, gradient = found.value[:, 0], found.gradient[:, 0].double()
    scores, logp = prompt_state_scores(policy, drawn, found.site)
    check_log_probabilities(policy, drawn.logp, logp)
    scores = scores.double()
    own_chance, own_scores = _accepted_scores(policy, prompts, found.site)
    wrong = (drawn.rewards.to(value) < 1).double()
    misses = wrong.sum(1).clamp(min=1)
    # With chance Vⁿ all n rollouts earn 1 and give no rest, so the others weigh 1/(1 − Vⁿ).
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
    policy: Policy, prompts: Prompts, site: Site
) -> tuple[Float[Tensor, "N S"], Float[Tensor, "N S D"]]:
    """Probability and score vector of each completion that earns 1, one for every stop token."""
    pairs = [(t, c) for row, t in enumerate(prompts.tokens) for c in prompts.accepted(row)]
    own = scored(policy, [(*t, *c) for t, c in pairs], [len(t) for t, _ in pairs], site)
    chance = own.logp.double().sum(1).exp().view(len(prompts), -1)
    return chance, own.total[:, 0].double().view(*chance.shape, -1)
