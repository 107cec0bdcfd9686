"""Eqs. 24 to 28 in closed form for one-token answers: every expectation a sum over the vocabulary.

N prompts · B of them · D width · V vocabulary
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.budget import METHODS, Budget, Method
from valuegrad.credit.score_geometry import (
    centred_head,
    final_geometry,
    mean_costate_error,
    site_geometry,
)
from valuegrad.credit.value_gradient import (
    final_value_gradient,
    indicator_value_gradient,
    one_token_prompts,
    site_jacobian,
)
from valuegrad.finite_groups import GroupAdvantages, group_advantages, limit_advantages
from valuegrad.impact.headroom import log_mean_exp
from valuegrad.impact.outcomes import (
    Outcomes,
    check_alpha,
    half_way,
    levels,
    nearest,
    reward_mass,
    success,
)
from valuegrad.impact.pooled import STEP, elasticity, pooled_rows, shifted_advantages
from valuegrad.impact.settings import ALPHA
from valuegrad.impact.signal import (
    Impact,
    MeanCostate,
    RewardMoments,
    check_settings,
    signals,
    summarise,
)
from valuegrad.impact.update import Update, add_gradients, length, moving_parameters
from valuegrad.methods import check_method
from valuegrad.model.batches import (
    KEPT_ELEMENTS,
    batches,
    equal_lengths,
    final_states,
    head_chunks,
    probabilities,
    prompt_states,
)
from valuegrad.model.policy import Policy, Site, logits
from valuegrad.model.sites import check_site
from valuegrad.prompts import Prompts
from valuegrad.tasks.task import Task

Chunk = tuple[list[int], Tensor]  # rows and their next-token probabilities (B, V)


def measure(
    policy: Policy,
    task: Task | Prompts,
    *,
    methods: Sequence[Method] = METHODS,
    site: Site = "final",
    alpha: float = ALPHA,
    group_size: int = Budget.group_size,
    prompts_per_update: int = Budget.prompts_per_update,
) -> dict[Method, Impact]:
    """Measure Σ, Λ, alignment, headroom and the scores for several methods at once.

    The policy reads each prompt once and logits are formed at its last token only; a further
    method costs a few passes over prompts × vocabulary.

    Args:
        policy: the policy.
        task: a task with one-token answers, or prompts of one from `tokenise`.
        methods: which critic-free methods.
        site: ``"embedding"``, a block's number or ``"final"``. A site below ``"final"`` costs a
            Jacobian of width × width a prompt.
        alpha: tilt of the headroom (Eq. 28), in inverse reward units, above 0.
        group_size: actions a group.
        prompts_per_update: prompts of a batch, over which ``ppo`` normalises.

    Returns:
        One `Impact` a method.

    Raises:
        UserError: no such method or site, alpha or group size out of range or not on the rewards'
            scale, answers that are not one token, an unusable reward.

    Example:
        ``measure(load_policy("runs/step100"), label_copy())["grpo"].means.alignment``
    """
    for method in methods:
        check_method(method)
    check_settings(alpha, group_size)
    site = check_site(policy, site)
    prompts = one_token_prompts(policy, task)
    with torch.no_grad():
        states = prompt_states(policy, prompts.tokens)
        by_head = head_chunks(policy, len(prompts))
        chunks: Iterable[Chunk] = _chunks(policy, states, by_head)
        # At "final" both passes read the same probabilities, which are kept where all of them fit.
        kept = site == "final" and len(prompts) * policy.head.shape[0] <= KEPT_ELEMENTS
        if kept:
            chunks = list(chunks)
        values = _values(policy, prompts)
        check_alpha(values, alpha)
        moments, found_outcomes = _moments(policy, prompts, chunks, values, alpha, group_size)
        known = values, found_outcomes.probabilities
        finite = {m: group_advantages(*known, m, group_size, prompts_per_update) for m in methods}
        limit = {m: limit_advantages(*known, m) for m in methods}
        if not kept:
            every = by_head if site == "final" else equal_lengths(prompts.tokens)
            chunks = _chunks(policy, states, every)
        squared, found = _gradients(policy, prompts, chunks, site, finite, limit)
    result = {}
    for m in methods:
        at = found[m]
        rows = signals(moments, finite[m].slope, squared, at.finite, at.limit)
        uncertain = None
        if m == "ppo":
            seen = elasticity(*known, squared, group_size, prompts_per_update)
            uncertain = pooled_rows(rows, at.derivatives, seen, prompts.strata)
        options = (alpha, group_size, rows, uncertain)
        result[m] = summarise(m, site, *options, middle=half_way(values), strata=prompts.strata)
    return result


@torch.no_grad()
def rewards(policy: Policy, prompts: Prompts) -> Float[Tensor, " N"]:
    """V = Σ_a p_a r_a of every prompt, exact over the vocabulary, in float64."""
    states = prompt_states(policy, prompts.tokens)
    chunks = _chunks(policy, states, head_chunks(policy, len(prompts)))
    return torch.cat([(p * prompts.reward_table(policy, rows)).sum(1) for rows, p in chunks])


@torch.no_grad()
def outcomes(policy: Policy, prompts: Prompts) -> Outcomes:
    """The different rewards, and the probability of each at every prompt."""
    values = _values(policy, prompts)
    states = prompt_states(policy, prompts.tokens)
    chunks = _chunks(policy, states, head_chunks(policy, len(prompts)))
    mass = [_mass(prompts, policy, rows, p, values) for rows, p in chunks]
    return Outcomes(values, torch.cat(mass))


def update(
    policy: Policy,
    prompts: Prompts,
    method: Method,
    group_size: int = Budget.group_size,
    prompts_per_update: int = Budget.prompts_per_update,
) -> Update:
    """The expected gradient of a method's update: mean_q Σ_a Ā_q(r_a) ∇p_a, all actions at once."""
    values = _values(policy, prompts)
    together = None
    if method == "ppo":
        # Its advantages at one prompt depend on the rewards at all.
        mass = outcomes(policy, prompts).probabilities
        together = group_advantages(values, mass, method, group_size, prompts_per_update)
    parameters = moving_parameters(policy)
    gradients = [torch.zeros_like(p) for p in parameters]
    for rows in batches([len(t) for t in prompts.tokens]):
        z = logits(policy, final_states(policy, [prompts.tokens[row] for row in rows]))
        p = z.detach().double().softmax(1)
        kinds = nearest(values, prompts.reward_table(policy, rows))
        if together is None:
            mass = _mass(prompts, policy, rows, p, values)
            group = group_advantages(values, mass, method, group_size, prompts_per_update)
        else:
            group = together.at(rows)
        advantage = group.expected.gather(1, kinds)
        # ∂/∂z of Σ_a p_a Ā_a, so no graph over prompts × vocabulary in float64.
        cotangent = p * (advantage - (p * advantage).sum(1, keepdim=True)) / len(prompts)
        add_gradients(gradients, z, parameters, cotangent.to(z.dtype))
    return Update(parameters, gradients, length(gradients))


def _values(policy: Policy, prompts: Prompts) -> Float[Tensor, " K"]:
    """The different rewards that one token can earn at any of the prompts."""
    if prompts.exact:
        return torch.tensor([0.0, 1.0], dtype=torch.float64, device=policy.device)
    chunks = head_chunks(policy, len(prompts))
    return levels(torch.cat([torch.unique(prompts.reward_table(policy, rows)) for rows in chunks]))


def _mass(
    prompts: Prompts, policy: Policy, rows: list[int], p: Tensor, values: Tensor
) -> Float[Tensor, "B K"]:
    """The probability of each reward."""
    kinds = nearest(values, prompts.reward_table(policy, rows))
    return reward_mass(values, kinds, p)


def _chunks(
    policy: Policy, states: Float[Tensor, "N D"], every: list[list[int]]
) -> Iterator[Chunk]:
    """Rows and their next-token probabilities, formed one after the other."""
    return ((rows, probabilities(policy, states[rows])) for rows in every)


def _moments(
    policy: Policy,
    prompts: Prompts,
    chunks: Iterable[Chunk],
    values: Tensor,
    alpha: float,
    group_size: int,
) -> tuple[RewardMoments, Outcomes]:
    """What needs the distribution of rewards only: one pass over prompts × vocabulary."""
    parts: list[tuple[Tensor, ...]] = []
    masses = []
    least = success(values)
    for rows, p in chunks:
        table = prompts.reward_table(policy, rows)
        mass = _mass(prompts, policy, rows, p, values)
        mean = (p * table).sum(1)
        right = (p * (table >= least)).sum(1).clamp(max=1)
        headroom = log_mean_exp(p, alpha * (table - mean[:, None])) / alpha
        pass_at_k = -torch.expm1(group_size * torch.log1p(-right))
        parts.append(
            (
                mean,
                (p * (table - mean[:, None]).square()).sum(1),
                -torch.xlogy(p, p).sum(1),
                headroom,
                alpha * (headroom + mean),
                torch.full_like(mean, torch.nan) if least != least else pass_at_k,
                (mass**group_size).sum(1),
            )
        )
        masses.append(mass)
    moments = RewardMoments(*(torch.cat(column) for column in zip(*parts, strict=True)))
    return moments, Outcomes(values, torch.cat(masses))


@dataclass(frozen=True, eq=False)
class _Found:
    """Of one method the mean costate beside G, in finite groups and in the limit."""

    finite: MeanCostate
    limit: MeanCostate
    derivatives: tuple[Tensor, ...] = ()  # of the limit's error, for ppo


def _gradients(
    policy: Policy,
    prompts: Prompts,
    chunks: Iterable[Chunk],
    site: Site,
    finite: dict[Method, GroupAdvantages],
    limit: dict[Method, GroupAdvantages],
) -> tuple[Float[Tensor, " N"], dict[Method, _Found]]:
    """‖G‖² and the mean costates by method: a second pass over prompts × vocabulary."""
    head = centred_head(policy.head)
    values = next(iter(finite.values())).values
    order: list[int] = []
    squared: list[Tensor] = []
    parts: dict[Method, list[tuple[Tensor, ...]]] = {m: [] for m in finite}
    for rows, p in chunks:
        table = prompts.reward_table(policy, rows)
        kinds = nearest(values, table)
        mean_row = p.to(policy.head.dtype) @ policy.head
        if prompts.exact:
            right = prompts.first_answers[rows].to(policy.device)
            gradient = indicator_value_gradient(policy.head, p, right, mean_row)
        else:
            gradient = final_value_gradient(policy.head, p, table)
        jacobian = None
        if site == "final":
            geometry = final_geometry(head, mean_row, gradient)
        else:
            jacobian = site_jacobian(policy, [prompts.tokens[row] for row in rows], site)
            geometry = site_geometry(policy.head, mean_row, gradient, jacobian)
        own = geometry.value_gradient.double()
        order += rows
        squared.append(own.square().sum(1))
        for m in finite:
            found: list[Tensor] = []
            for group in (finite[m].at(rows), limit[m].at(rows)):
                mean = group.slope[:, None] * own
                if not group.affine:
                    costate = final_value_gradient(policy.head, p, group.expected.gather(1, kinds))
                    if jacobian is not None:
                        costate = (costate[:, None] @ jacobian)[:, 0]
                    mean = costate.double()
                error = mean_costate_error(p, kinds, geometry, group)
                found += [(mean * own).sum(1), (mean - own).norm(dim=1), error]
            if m == "ppo":
                found += [
                    (mean_costate_error(p, kinds, geometry, group) - found[-1]) / STEP
                    for group in shifted_advantages(limit[m].at(rows))
                ]
            parts[m].append(tuple(found))
    place = torch.tensor(order).argsort()
    result = {}
    for m, rows_of_m in parts.items():
        columns = [torch.cat(column)[place] for column in zip(*rows_of_m, strict=True)]
        result[m] = _Found(
            MeanCostate(*columns[:3]), MeanCostate(*columns[3:6]), tuple(columns[6:])
        )
    return torch.cat(squared)[place], result
