"""The statements of parameter gradients: the update of Eq. 1, correction G."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from valuegrad.impact import vocabulary
from valuegrad.impact.update import moving_parameters
from valuegrad.model.batches import final_states
from valuegrad.model.policy import logits
from valuegrad.prompts import Prompts
from valuegrad.theory.case import Case, exact_prompts
from valuegrad.theory.differences import difference
from valuegrad.theory.group_enumeration import groups, slope
from valuegrad.theory.statement import Statement, equality
from valuegrad.training.objective import grpo_objective

GROUP, PROMPTS = 4, 3
ALONG = 1e-5  # relative error of a derivative along an update, a difference of a few of them


def update_statements(case: Case) -> Iterator[Statement]:
    """The policy update over all tokens and groups; what it promises on its own prompts."""
    policy, prompts = case.policy, _prompts(case)
    formed = vocabulary.update(policy, prompts, "grpo", GROUP)
    total = [torch.zeros_like(g) for g in formed.gradients]
    for row in range(len(prompts)):
        # One prompt's gradients at a time: each is as large as the model.
        for sum_of_them, part in zip(total, _objective_gradient(case, prompts, row), strict=True):
            sum_of_them.add_(part, alpha=1 / len(prompts))
    size = math.sqrt(sum(float(g.square().sum()) for g in total))
    name = f"update = mean gradient of Eq. 1 over all tokens and groups of {GROUP}"
    left = [*formed.gradients, torch.tensor(formed.gradient_norm, dtype=torch.float64)]
    yield equality(name, "Eq. 1", left, [*total, torch.tensor(size, dtype=torch.float64)])
    del formed, total, left
    own = _gain(case, prompts, prompts)
    rows = range(len(prompts))
    others = [
        _gain(case, prompts.some([j for j in rows if j != i]), prompts.some([i])) for i in rows
    ]
    excess = own - torch.stack(others).mean()
    name = "first-order gain on own prompts − on left-out ones = tr Cov(u, g) / n"
    note = f"own {float(own):.3g}, left out {float(torch.stack(others).mean()):.3g}"
    yield equality(name, "Correction G", excess, _covariance(case, prompts), ALONG, note=note)


def _prompts(case: Case) -> Prompts:
    """The prompt alone and with some of its completion; the second likeliest token is right."""
    sequences = [case.sequence[: len(case.prompt) + i] for i in range(PROMPTS)]
    answers = [(case.likely(sequence)[1],) for sequence in sequences]
    return exact_prompts(case.text, [tuple(s) for s in sequences], answers)


def _log_p(case: Case, prompts: Prompts, row: int) -> Tensor:
    return logits(case.policy, final_states(case.policy, [prompts.tokens[row]]))[0].log_softmax(0)


def _objective_gradient(case: Case, prompts: Prompts, row: int) -> list[Tensor]:
    """The gradient of Eq. 1 at the policy that draws: every token by its probability and mean Â."""
    log_p, answer = _log_p(case, prompts, row), prompts.answers[row][0]
    p = log_p.detach().exp()
    every = groups(float(p[answer]), GROUP)
    mean = torch.full_like(p, math.fsum(chance * low for chance, _, low in every))
    mean[answer] = math.fsum(chance * high for chance, high, _ in every)
    # The objective is a mean over completions, here over tokens: each weighs V p.
    weight, column = len(p) * p * mean, log_p[:, None]
    objective = grpo_objective(column, column.detach(), None, weight, torch.ones_like(column))
    return _gradient(case, objective)


def _gradient(case: Case, value: Tensor) -> list[Tensor]:
    parameters = moving_parameters(case.policy)
    found = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    return list(found)


@torch.no_grad()
def _gain(case: Case, formed_from: Prompts, measured_on: Prompts) -> Tensor:
    """The derivative of the mean reward along an update, by moving the parameters."""
    with torch.enable_grad():
        update = vocabulary.update(case.policy, formed_from, "grpo", GROUP)
    length = update.gradient_norm
    saved = [p.data for p in update.parameters]

    def moved(distance: float) -> Tensor:
        try:
            for p, old, g in zip(update.parameters, saved, update.gradients, strict=True):
                p.data = torch.add(old, g, alpha=distance / length)
            return vocabulary.rewards(case.policy, measured_on).mean()
        finally:
            for p, old in zip(update.parameters, saved, strict=True):
                p.data = old

    return difference(moved) * length


def _covariance(case: Case, prompts: Prompts) -> float:
    """The tr Cov(u_i, g_i) / n of the gradients g_i of each prompt's reward and u_i = ψ_i g_i."""
    gradients, slopes = list[list[Tensor]](), list[float]()
    for row, (answer,) in enumerate(prompts.answers):
        right = _log_p(case, prompts, row)[answer].exp()
        slopes.append(slope(groups(float(right.detach()), GROUP)))
        gradients.append(_gradient(case, right))
    n, total = len(slopes), 0.0
    for i, one in enumerate(gradients):
        for j, other in enumerate(gradients):
            inner = sum(float((a * b).sum()) for a, b in zip(one, other, strict=True))
            # Σ_i ⟨u_i − ū, g_i − ḡ⟩ of the inner products.
            total += slopes[i] * inner * ((i == j) - 1 / n)
    return total / ((n - 1) * n)
