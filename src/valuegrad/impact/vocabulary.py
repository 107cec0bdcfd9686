"""Eqs. 24 to 28 in closed form for one-token answers: every expectation a sum over the vocabulary.

N prompts · B of them · D width · V vocabulary
"""

from collections.abc import Iterable, Iterator, Sequence

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
from valuegrad.impact.headroom import log_mean_exp
from valuegrad.impact.settings import ALPHA
from valuegrad.impact.signal import Impact, RewardMoments, check_settings, signals, summarise
from valuegrad.impact.update import Pass, Update, expected_update, moving_parameters
from valuegrad.methods import PopulationAdvantages, check_method, population_advantages
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
        group_size: actions a group, for pass@k and zero-spread groups.

    Returns:
        One `Impact` a method.

    Raises:
        UserError: no such method or site, alpha or group size out of range, answers that are not
            one token, an unusable reward.

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
        moments = _moments(policy, prompts, chunks, alpha, group_size)
        populations = {
            m: population_advantages(moments.reward, moments.reward_variance, m) for m in methods
        }
        if not kept:
            every = by_head if site == "final" else equal_lengths(prompts.tokens)
            chunks = _chunks(policy, states, every)
        squared, errors = _gradients(policy, prompts, chunks, populations, site)
    return {
        m: summarise(
            m,
            site,
            alpha,
            group_size,
            signals(moments, populations[m].slope, squared, errors[m]),
            strata=prompts.strata,
        )
        for m in methods
    }


@torch.no_grad()
def rewards(policy: Policy, prompts: Prompts) -> Float[Tensor, " N"]:
    """V = Σ_a p_a r_a of every prompt, exact over the vocabulary, in float64."""
    states = prompt_states(policy, prompts.tokens)
    chunks = _chunks(policy, states, head_chunks(policy, len(prompts)))
    return torch.cat([(p * prompts.reward_table(policy, rows)).sum(1) for rows, p in chunks])


def update(policy: Policy, prompts: Prompts, method: Method) -> Update:
    """The gradient of mean_q slope_q V_q(θ), slopes held fixed: all actions at once."""

    def passes() -> Iterator[Pass]:
        for rows in batches([len(t) for t in prompts.tokens]):
            z = logits(policy, final_states(policy, [prompts.tokens[row] for row in rows]))
            p, table = z.detach().double().softmax(1), prompts.reward_table(policy, rows)
            value = (p * table).sum(1)
            centred = table - value[:, None]
            variance = (p * centred.square()).sum(1)
            # ∂V/∂z = p ⊙ (r − V), so no graph over prompts × vocabulary in float64.
            yield value, variance, z, p.mul_(centred)

    return expected_update(moving_parameters(policy), method, len(prompts), passes())


def _chunks(
    policy: Policy, states: Float[Tensor, "N D"], every: list[list[int]]
) -> Iterator[Chunk]:
    """Rows and their next-token probabilities, formed one after the other."""
    return ((rows, probabilities(policy, states[rows])) for rows in every)


def _moments(
    policy: Policy,
    prompts: Prompts,
    chunks: Iterable[Chunk],
    alpha: float,
    group_size: int,
) -> RewardMoments:
    """What needs the distribution of rewards only: one pass over prompts × vocabulary."""
    parts: list[tuple[Tensor, ...]] = []
    for rows, p in chunks:
        table = prompts.reward_table(policy, rows)
        mean = (p * table).sum(1)
        right = (p * (table >= 1)).sum(1).clamp(max=1)
        headroom = log_mean_exp(p, alpha * (table - mean[:, None])) / alpha
        parts.append(
            (
                mean,
                (p * (table - mean[:, None]).square()).sum(1),
                -torch.xlogy(p, p).sum(1),
                headroom,
                alpha * (headroom + mean),
                -torch.expm1(group_size * torch.log1p(-right)),
                _zero_spread(p, table, group_size, prompts.reward.binary),
            )
        )
    return RewardMoments(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _zero_spread(p: Tensor, table: Tensor, group_size: int, binary: bool) -> Tensor:
    """The probability that a whole group earns the same: Σ_v P(r = v)^G."""
    if binary:
        right = (p * table).sum(1)
        return right**group_size + (1 - right) ** group_size
    values, which = torch.unique(table, return_inverse=True)
    mass = torch.zeros(len(p), len(values), dtype=p.dtype, device=p.device)
    mass.scatter_add_(1, which, p)
    return (mass**group_size).sum(1)


def _gradients(
    policy: Policy,
    prompts: Prompts,
    chunks: Iterable[Chunk],
    populations: dict[Method, PopulationAdvantages],
    site: Site,
) -> tuple[Float[Tensor, " N"], dict[Method, Float[Tensor, " N"]]]:
    """‖G‖², and E‖λ̂ − G‖ by method: a second pass over prompts × vocabulary."""
    head = centred_head(policy.head)
    squared = torch.empty(len(prompts), dtype=torch.float64, device=policy.device)
    errors = {m: torch.empty_like(squared) for m in populations}
    for rows, p in chunks:
        table = prompts.reward_table(policy, rows)
        mean_row = p.to(policy.head.dtype) @ policy.head
        if prompts.exact:
            right = prompts.first_answers[rows].to(policy.device)
            gradient = indicator_value_gradient(policy.head, p, right, mean_row)
        else:
            gradient = final_value_gradient(policy.head, p, table)
        if site == "final":
            geometry = final_geometry(head, mean_row, gradient)
        else:
            jacobian = site_jacobian(policy, [prompts.tokens[row] for row in rows], site)
            geometry = site_geometry(policy.head, mean_row, gradient, jacobian)
        squared[rows] = geometry.value_gradient.double().square().sum(1)
        done: dict[tuple[float, ...], Tensor] = {}
        for m, population in populations.items():
            here = population.at(rows)
            # Two methods with the same population advantages (dr_grpo, rloo) share the work.
            key = (*here.slope.tolist(), *here.baseline.tolist())
            if key not in done:
                done[key] = mean_costate_error(p, table, geometry, here)
            errors[m][rows] = done[key]
    return squared, errors
