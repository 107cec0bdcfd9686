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
from valuegrad.finite_groups import GroupAdvantages, group_advantages, limit_advantages
from valuegrad.impact.headroom import log_mean_exp
from valuegrad.impact.pooled import STEP, elasticity, pooled_rows, shifted_advantages
from valuegrad.impact.settings import ALPHA
from valuegrad.impact.signal import (
    Impact,
    RewardMoments,
    check_settings,
    parallel,
    signals,
    summarise,
)
from valuegrad.impact.update import (
    Update,
    add_gradients,
    length,
    moving_parameters,
    weighted_gradients,
)
from valuegrad.impact.wrong_answers import wrong_answers
from valuegrad.methods import PER_LENGTH, token_weight
from valuegrad.model.batches import entropies, head_chunks, probabilities
from valuegrad.model.policy import Policy, Site
from valuegrad.prompts import Prompts
from valuegrad.sampler import Rollouts, check_log_probabilities

rewards = answer_values
WRONG = 4  # wrong completions drawn of a prompt where their lengths matter
ZERO_ONE = torch.tensor([0.0, 1.0], dtype=torch.float64)


def measure(
    policy: Policy,
    prompts: Prompts,
    *,
    methods: Sequence[Method] = METHODS,
    site: Site = "final",
    alpha: float = ALPHA,
    group_size: int = Budget.group_size,
    prompts_per_update: int = Budget.prompts_per_update,
    drawn: Rollouts | None = None,  # for Λ_sample below "final", which is NaN without them
) -> dict[Method, Impact]:
    """Measure everything of theory §6 for several methods at once."""
    check_settings(alpha, group_size)
    gradients = answer_gradients(policy, prompts, site)
    p = _probabilities(gradients.value[:, 0])
    known = ZERO_ONE.to(p), p
    groups = {m: group_advantages(*known, m, group_size, prompts_per_update) for m in methods}
    limits = {m: limit_advantages(*known, m) for m in methods}
    with torch.no_grad():
        moments = _moments(policy, gradients, alpha, group_size)
        squared = gradients.gradient[:, 0].double().square().sum(1)
    shifted = shifted_advantages(limits["ppo"]) if "ppo" in limits else ()
    every = [*groups.values(), *limits.values(), *shifted]
    if gradients.site == "final":
        errors = _over_vocabulary(policy, prompts, gradients, every)
    elif drawn is not None:
        errors = _over_rollouts(policy, prompts, drawn, gradients, every)
    else:
        errors = [torch.full_like(squared, torch.nan)] * len(every)
    result = {}
    for i, m in enumerate(methods):
        own, other = errors[i], errors[len(methods) + i]
        limit = parallel(limits[m].slope, squared, other)
        finite = parallel(groups[m].slope, squared, own)
        rows = signals(moments, groups[m].slope, squared, finite, limit)
        uncertain = None
        if m == "ppo":
            changes = [(x - other) / STEP for x in errors[-2:]]
            seen = elasticity(*known, squared, group_size, prompts_per_update)
            uncertain = pooled_rows(rows, changes, seen, prompts.strata)
        options = (alpha, group_size, rows, uncertain)
        result[m] = summarise(m, gradients.site, *options, strata=prompts.strata)
    return result


def update(
    policy: Policy,
    prompts: Prompts,
    method: Method,
    group_size: int = Budget.group_size,
    prompts_per_update: int = Budget.prompts_per_update,
    draws: int = WRONG,
    seed: int = 0,
) -> Update:
    """The expected gradient of a method's update: no completion is sampled but for their lengths.

    Of π(y|q) = V, T tokens of y and other completions o it is, with w of `token_weight`,
    ψ w(T) ∇V + Ā(0) Σ_{o≠y} (w(T_o) − w(T)) ∇π(o), as the ∇π(o) add up to −∇V. The last term, of
    methods whose completions weigh 1/T, is a mean over ``draws`` wrong completions a prompt, of
    which those count that are not as long as y.
    """

    def group_of(values: Tensor) -> GroupAdvantages:
        p = _probabilities(values)
        return group_advantages(ZERO_ONE.to(p), p, method, group_size, prompts_per_update)

    # Advantages of ppo at one prompt depend on the rewards at all.
    together = group_of(answer_values(policy, prompts)) if method == "ppo" else None
    steps = torch.tensor([len(a) + bool(prompts.stops) for a in prompts.answers])
    weight = token_weight(method, steps, prompts.max_tokens).to(policy.device)
    missed = torch.zeros(len(prompts), dtype=torch.float64)  # Ā of every other completion
    parameters = moving_parameters(policy)
    gradients = [torch.zeros_like(p) for p in parameters]
    for rows, log_v in log_answer_values(policy, prompts):
        value = log_v.detach().exp()
        group = group_of(value) if together is None else together.at(rows)
        missed[rows] = group.expected[:, 0].cpu()
        # ∇V = V ∇ log V.
        add_gradients(
            gradients, log_v, parameters, group.slope * weight[rows] * value / len(prompts)
        )
    if method in PER_LENGTH and prompts.stops:
        wrong = wrong_answers(policy, prompts, draws, seed)
        lengths = torch.tensor([[len(c) for c in group] for group in wrong.completions])
        longer = 1 / lengths.double() - 1 / steps[:, None].double()
        scale = (missed * wrong.share)[:, None] * longer / (draws * len(prompts))
        pairs = zip(prompts.tokens, wrong.completions, strict=True)
        sequences = [(*tokens, *c) for tokens, group in pairs for c in group]
        starts = [len(tokens) for tokens in prompts.tokens for _ in range(draws)]
        found = weighted_gradients(policy, sequences, starts, scale.flatten(), parameters)
        gradients = [total.add_(part) for total, part in zip(gradients, found, strict=True)]
    return Update(parameters, gradients, length(gradients))


def _probabilities(value: Float[Tensor, " N"]) -> Float[Tensor, "N 2"]:
    # A product of probabilities that were summed over stop tokens may round above 1.
    right = value.clamp(max=1)
    return torch.stack((1 - right, right), 1)


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
    groups: Sequence[GroupAdvantages],
) -> list[Float[Tensor, " N"]]:
    """E‖λ̂ − G‖ at ``"final"``, where λ̂ = Â (W_a − w̄) for the first token a alone."""
    head, value = centred_head(policy.head), found.value[:, 0]
    errors = [torch.empty_like(value) for _ in groups]
    for rows in head_chunks(policy, len(prompts)):
        p = probabilities(policy, found.final[rows])
        gradient = found.gradient[rows, 0]
        geometry = final_geometry(head, p.to(policy.head.dtype) @ policy.head, gradient)
        first = prompts.first_answers[rows].to(p.device)[:, None]
        right = value[rows, None]
        wrong = p.scatter_add(1, first, -right).clamp_(min=0)
        norm, along = (x.gather(1, first) for x in (geometry.squared_norm, geometry.projection))
        answered = ScoreGeometry(norm, along, gradient)
        zero, one = torch.zeros_like(p, dtype=torch.long), torch.ones_like(first)
        for error, group in zip(errors, groups, strict=True):
            here = group.at(rows)
            missed = mean_costate_error(wrong, zero, geometry, here)
            error[rows] = missed + mean_costate_error(right, one, answered, here)
    return errors


def _over_rollouts(
    policy: Policy,
    prompts: Prompts,
    drawn: Rollouts,
    found: AnswerGradients,
    groups: Sequence[GroupAdvantages],
) -> list[Float[Tensor, " N"]]:
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
    shares = share[:, None] * wrong / misses[:, None]
    errors = []
    for group in groups:
        total = torch.zeros_like(value)
        for which, weight, s in ((0, shares, scores), (1, own_chance, own_scores)):
            nodes, chances = group.nodes[:, which].unbind(1), group.weights[:, which].unbind(1)
            for advantage, chance in zip(nodes, chances, strict=True):
                distance = (advantage[:, None, None] * s - gradient[:, None]).norm(dim=2)
                total += chance * (weight * distance).sum(1)
        errors.append(total)
    return errors


def _accepted_scores(
    policy: Policy, prompts: Prompts, site: Site
) -> tuple[Float[Tensor, "N S"], Float[Tensor, "N S D"]]:
    """Probability and score vector of each completion that earns 1, one for every stop token."""
    pairs = [(t, c) for row, t in enumerate(prompts.tokens) for c in prompts.accepted(row)]
    own = scored(policy, [(*t, *c) for t, c in pairs], [len(t) for t, _ in pairs], site)
    chance = own.logp.double().sum(1).exp().view(len(prompts), -1)
    return chance, own.total[:, 0].double().view(*chance.shape, -1)
