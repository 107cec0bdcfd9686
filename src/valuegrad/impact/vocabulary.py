"""Impact in closed form for one-token answers: every expectation a sum over the vocabulary.

Everything of theory §6 per prompt; no action is sampled.

N prompts · B of them · D width · V vocabulary
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.credit.score_geometry import (
    ScoreGeometry,
    centred_head,
    final_geometry,
    mean_costate_error,
    site_geometry,
)
from valuegrad.credit.value_gradient import (
    equal_lengths,
    final_value_gradient,
    head_chunks,
    indicator_value_gradient,
    probabilities,
    prompt_states,
    site_jacobian,
)
from valuegrad.impact.headroom import log_mean_exp
from valuegrad.impact.signal import Columns, Impact, check_settings, summarise, tilted_columns
from valuegrad.methods import METHODS, Method, check_method, population_advantages
from valuegrad.model.policy import Policy, Site
from valuegrad.model.sites import check_site
from valuegrad.one_token_prompts import OneTokenPrompts, one_token_prompts
from valuegrad.tasks.task import Task

KEPT_ELEMENTS = 2**25  # probabilities of prompts × vocabulary worth keeping: 256 MiB


def measure(
    policy: Policy,
    task: Task | OneTokenPrompts,
    *,
    methods: Sequence[Method] = METHODS,
    site: Site = "final",
    alpha: float = 5.0,
    group_size: int = 16,
) -> dict[Method, Impact]:
    """Measure Σ, Λ, alignment, headroom and the scores for several methods at once.

    The policy reads each prompt once and logits are formed at its last token only; a further
    method costs a few passes over prompts × vocabulary.

    Args:
        policy: the policy.
        task: a task with one-token answers, or its held-out prompts tokenised already.
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
        ``measure(load_policy("runs/step100"), label_copy())["grpo"].means["alignment"]``
    """
    for method in methods:
        check_method(method)
    check_settings(alpha, group_size)
    site = check_site(policy, site)
    prompts = (
        one_token_prompts(policy, task.evaluation, task.reward) if isinstance(task, Task) else task
    )
    with torch.no_grad():
        distributions = _Distributions(policy, prompt_states(policy, prompts))
        shared = _moments(distributions, prompts, alpha, group_size)
        by_method = _gradients(policy, prompts, distributions, shared, methods, site)
    return {
        method: summarise(method, site, alpha, group_size, {**shared, **by_method[method]})
        for method in methods
    }


def expected_rewards(policy: Policy, prompts: OneTokenPrompts) -> Float[Tensor, " N"]:
    """V = Σ_a p_a r_a of every prompt, exact over the vocabulary, in float64."""
    with torch.no_grad():
        states = prompt_states(policy, prompts)
        values = [
            (probabilities(policy, states[rows]) * prompts.reward_table(rows)).sum(1)
            for rows in head_chunks(policy, len(prompts))
        ]
    return torch.cat(values)


class _Distributions:
    """Next-token probabilities of prompts, float64: formed once where all of them fit."""

    def __init__(self, policy: Policy, states: Tensor) -> None:
        self.policy, self.states = policy, states
        self.chunks = head_chunks(policy, len(states))
        self.kept: list[Tensor] | None = None
        if len(states) * policy.head.shape[0] <= KEPT_ELEMENTS:
            self.kept = [probabilities(policy, states[rows]) for rows in self.chunks]

    def by_chunk(self) -> Iterator[tuple[list[int], Tensor]]:
        """The rows of each chunk and their probabilities."""
        for i, rows in enumerate(self.chunks):
            yield rows, self.kept[i] if self.kept else self.at(rows)

    def at(self, rows: list[int]) -> Tensor:
        """The probabilities of any rows."""
        return probabilities(self.policy, self.states[rows])


def _moments(
    distributions: _Distributions, prompts: OneTokenPrompts, alpha: float, group_size: int
) -> Columns:
    """What needs the distribution of rewards only: one pass over prompts × vocabulary."""
    parts: dict[str, list[Tensor]] = {}
    for rows, p in distributions.by_chunk():
        rewards = prompts.reward_table(rows)
        mean = (p * rewards).sum(1)
        right = (p * (rewards >= 1)).sum(1).clamp(max=1)
        chunk = {
            "reward": mean,
            "reward_variance": (p * (rewards - mean[:, None]).square()).sum(1),
            "entropy": -torch.xlogy(p, p).sum(1),
            "headroom": log_mean_exp(p, alpha * (rewards - mean[:, None])) / alpha,
            "pass_at_k": -torch.expm1(group_size * torch.log1p(-right)),
            "zero_spread": _zero_spread(p, rewards, group_size, prompts.binary),
        }
        for name, values in chunk.items():
            parts.setdefault(name, []).append(values)
    columns = {name: torch.cat(values).cpu().numpy() for name, values in parts.items()}
    return columns | tilted_columns(
        alpha, alpha * (columns["headroom"] + columns["reward"]), columns["reward"]
    )


def _zero_spread(p: Tensor, rewards: Tensor, group_size: int, binary: bool) -> Tensor:
    """The probability that a whole group earns the same: Σ_v P(r = v)^G."""
    if binary:
        right = (p * rewards).sum(1)
        return right**group_size + (1 - right) ** group_size
    values, which = torch.unique(rewards, return_inverse=True)
    mass = torch.zeros(len(p), len(values), dtype=p.dtype, device=p.device)
    mass.scatter_add_(1, which, p)
    return (mass**group_size).sum(1)


def _gradients(
    policy: Policy,
    prompts: OneTokenPrompts,
    distributions: _Distributions,
    shared: Columns,
    methods: Sequence[Method],
    site: Site,
) -> dict[Method, Columns]:
    """What needs G: a second pass over prompts × vocabulary, all methods together."""
    mean, variance = (
        torch.from_numpy(shared[k]).to(policy.device) for k in ("reward", "reward_variance")
    )
    populations = {m: population_advantages(mean, variance, m) for m in methods}
    head = centred_head(policy.head)
    chunks = (
        distributions.by_chunk()
        if site == "final"
        else ((rows, distributions.at(rows)) for rows in equal_lengths(prompts))
    )
    squared = torch.empty(len(prompts), dtype=torch.float64, device=policy.device)
    errors = {m: torch.empty_like(squared) for m in methods}
    for rows, p in chunks:
        rewards = prompts.reward_table(rows)
        mean_row = p.to(policy.head.dtype) @ policy.head
        if prompts.binary:
            right = torch.tensor([prompts.answers[row] for row in rows], device=policy.device)
            gradient = indicator_value_gradient(policy.head, p, right, mean_row)
        else:
            gradient = final_value_gradient(policy.head, p, rewards)
        geometry: ScoreGeometry
        if site == "final":
            geometry = final_geometry(head, mean_row, gradient)
        else:
            jacobian = site_jacobian(policy, prompts, rows, site)
            geometry = site_geometry(policy.head, mean_row, gradient, jacobian)
        squared[rows] = geometry.value_gradient.double().square().sum(1)
        done: dict[tuple[float, ...], Tensor] = {}
        for m, population in populations.items():
            here = population.at(rows)
            # Two methods with the same population advantages (dr_grpo, rloo) share the work.
            key = (*here.slope.tolist(), *here.baseline.tolist())
            if key not in done:
                done[key] = mean_costate_error(p, rewards, geometry, here)
            errors[m][rows] = done[key]
    norm = squared.sqrt()
    return {
        m: {
            name: values.cpu().numpy()
            for name, values in (
                ("slope", populations[m].slope),
                ("sigma", squared),
                ("alignment", populations[m].slope * squared),
                ("lambda_conditional", (populations[m].slope - 1).abs() * squared),
                ("lambda_sample", norm * errors[m]),
            )
        }
        for m in methods
    }
