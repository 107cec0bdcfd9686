"""The statements of values and their gradients: Eqs. 8, 12, corrections B, C, F."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from valuegrad.credit.answer_gradients import answer_gradients
from valuegrad.credit.enumeration import enumerate_completions, enumerated_value_gradient
from valuegrad.credit.scores import scored
from valuegrad.credit.squared_norm import inner_product, squared_norm
from valuegrad.credit.value_gradient import final_value_gradient, value_gradient
from valuegrad.methods import population_advantages
from valuegrad.model.cache import decode_step, prefill
from valuegrad.model.policy import Site, logits
from valuegrad.model.sites import shifted
from valuegrad.prompts import Prompts
from valuegrad.theory.case import Case, exact_prompts
from valuegrad.theory.differences import DIFFERENCES, difference, unit_direction
from valuegrad.theory.statement import Statement, equality

REWARDED = 64  # tokens with a reward of their own, the likeliest and others
OUTCOMES, GROUP = 6, 4  # of which every group is enumerated


def value_gradient_statements(case: Case) -> Iterator[Statement]:
    """Eq. 8 at every site, and correction B: what costates estimate, for any reward."""
    policy, prompts = case.policy, case.one_token_answers()
    left, right = [], []
    for site in policy.sites:
        direction = unit_direction(policy, case.generator)
        left.append(value_gradient(policy, prompts, site) @ direction)
        right.append(difference(partial(_values, case, prompts, site, direction)))
    name = "value gradients of right tokens = central differences of V, every site"
    yield equality(name, "Eq. 8", torch.stack(left), torch.stack(right), DIFFERENCES)
    tokens, rewards = _rewards(case)
    every = [[*case.prompt, token] for token in tokens.tolist()]
    for place in ("embedding", "final"):
        found = enumerate_completions(policy, case.prompt, 1, place)
        p = found.probability.detach()
        mean = p @ rewards
        variance = p @ (rewards - mean).square()
        given = population_advantages(mean[None], variance[None], "grpo")
        scores = scored(policy, every, len(case.prompt), place).total[:, 0]
        # All other tokens earn 0; a constant taken off Â costs the mean nothing.
        costate = (p * given.slope * rewards)[tokens] @ scores
        truth = enumerated_value_gradient(found, rewards)
        name = f"mean costate = G / (σ + ξ) in large groups, random rewards, site {place}"
        note = "no sampling gap: correction B holds for discrete tokens and any reward"
        yield equality(name, "Eq. 12", costate, truth / (variance.sqrt() + 1e-4), note=note)
    gradient = final_value_gradient(policy.head, p[None], rewards[None])[0]
    yield equality("Wᵀ (p ⊙ (r − p·r)) = autograd of Σ p r", "Eq. 8", gradient, truth)


def _rewards(case: Case) -> tuple[Tensor, Tensor]:
    """Tokens, the likeliest and random others, and random rewards (V,) that only they earn."""
    likely = torch.tensor(case.likely())
    half = REWARDED // 2
    others = half + torch.randperm(max(0, len(likely) - half), generator=case.generator)
    tokens = torch.cat([likely[:half], likely[others[:half]]])
    rewards = torch.zeros(len(likely), dtype=torch.float64)
    rewards[tokens] = torch.randn(len(tokens), generator=case.generator, dtype=torch.float64)
    return tokens.to(case.policy.device), rewards.to(case.policy.device)


@torch.no_grad()
def _values(case: Case, prompts: Prompts, site: Site, direction: Tensor, length: float) -> Tensor:
    """The probability of each right token with the prompt's last state moved."""
    with shifted(case.policy, site, -1, length * direction):
        _, finals = prefill(case.policy, case.prompt)
    return logits(case.policy, finals[-1]).softmax(0)[prompts.first_answers.to(finals.device)]


def norm_statements(case: Case) -> Iterator[Statement]:
    """Correction C, over every group of 4 of 6 outcomes: unbiased to rounding."""
    likely = case.likely()[:OUTCOMES]
    scores = scored(case.policy, [[*case.prompt, a] for a in likely], len(case.prompt), "final")
    s, count = scores.total[:, 0], len(likely)
    random = torch.randn(3, count, generator=case.generator, dtype=torch.float64).to(s.device)
    (r, other), chance = random[:2], random[2].softmax(0)
    which = torch.cartesian_prod(*[torch.arange(count, device=s.device)] * GROUP)
    weight = chance[which].prod(1)

    def covariance(signal: Tensor) -> Tensor:
        return (chance * (signal - chance @ signal)) @ (s - chance @ s)

    truth = covariance(r).square().sum()
    note = f"over all {len(which)} groups of {GROUP} of {count} outcomes, each by its probability"
    unbiased = weight @ squared_norm(s[which], r[which])
    yield equality("mean of unbiased ‖G‖² = ‖G‖²", "Correction C", unbiased, truth, note=note)
    inner = weight @ inner_product(s[which], r[which], other[which])
    name = "mean of unbiased ⟨G, G′⟩ = ⟨G, G′⟩"
    yield equality(name, "Correction C", inner, covariance(r) @ covariance(other), note=note)
    centred = (r[which] - r[which].mean(1, keepdim=True)) / (GROUP - 1)
    plug_in = weight @ (centred[:, :, None] * s[which]).sum(1).square().sum(1)
    name = "mean of plug-in ‖mean‖² = ‖G‖²"
    yield equality(name, "Correction C", plug_in, truth, form="paper", note=note)


def answer_statements(case: Case) -> Iterator[Statement]:
    """Correction F: values and gradients along an answer of two tokens and its stop token."""
    policy, prompts = case.policy, two_token_answer(case)
    sequence = [*prompts.tokens[0], *prompts.answers[0]]
    steps, places = len(prompts.answers[0]) + bool(prompts.stops), ("embedding", case.middle)
    found = {site: answer_gradients(policy, prompts, site) for site in (*places, "final")}
    name = "V_t of an exact answer = its probability, one decode step at a time"
    value = values_by_steps(case, prompts)
    yield equality(name, "Correction F", found["final"].value[0], value, 1e-9, entrywise=True)
    left, right = [], []
    for site, gradients in found.items():
        for t in range(steps):
            direction = unit_direction(policy, case.generator)
            moved = partial(_value_along, case, prompts, sequence, site, t, direction)
            # Relative to V_t, which is smaller the more is left of the answer.
            left.append(gradients.gradient[0, t] @ direction / value[t])
            right.append(difference(moved) / value[t])
    name = "G_t of an exact answer = central differences of V_t, at three sites"
    sides = torch.stack(left), torch.stack(right)
    yield equality(name, "Correction F", *sides, DIFFERENCES, note="of log V_t")


def two_token_answer(case: Case) -> Prompts:
    """The prompt with two likely tokens as the right answer, and the model's own stop tokens."""
    stops, answer = case.policy.stop_tokens, list[int]()
    for _ in range(2):
        likely = case.likely([*case.prompt, *answer])
        answer.append(next(token for token in likely if token not in stops))
    return exact_prompts(case.text, [tuple(case.prompt)], [tuple(answer)], stops)


@torch.no_grad()
def values_by_steps(case: Case, prompts: Prompts) -> Tensor:
    """V_t of each t: products of next-token probabilities."""
    policy, (answer,), found = case.policy, prompts.answers, list[Tensor]()
    cache, finals = prefill(policy, prompts.tokens[0])
    final = finals[-1]
    for token in answer:
        found.append(logits(policy, final).softmax(0)[token])
        cache, final = decode_step(policy, cache, token)
    if prompts.stops:
        found.append(logits(policy, final).softmax(0)[list(prompts.stops)].sum())
    return torch.stack([torch.stack(found[t:]).prod() for t in range(len(found))])


@torch.no_grad()
def _value_along(
    case: Case,
    prompts: Prompts,
    sequence: list[int],
    site: Site,
    t: int,
    direction: Tensor,
    length: float,
) -> Tensor:
    """V_t with h_t moved along a direction."""
    start = len(prompts.tokens[0])
    with shifted(case.policy, site, start - 1 + t, length * direction):
        _, finals = prefill(case.policy, sequence)
    p = logits(case.policy, finals[start - 1 + t :]).softmax(1)
    value = p.new_ones(())
    for row, token in zip(p, sequence[start + t :], strict=False):
        value = value * row[token]
    return value * p[-1, list(prompts.stops)].sum() if prompts.stops else value
