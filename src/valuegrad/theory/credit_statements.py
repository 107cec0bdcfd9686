"""The statements of costates and value gradients: Eqs. 12, 14, 15, corrections A to C."""

from collections.abc import Iterator

import torch
from torch import Tensor

from valuegrad.credit.cache_recursion import cache_costates, one_step_costates, unrolled_costates
from valuegrad.credit.costates import costates_at
from valuegrad.credit.enumeration import enumerate_completions, enumerated_value_gradient
from valuegrad.credit.scores import scored
from valuegrad.credit.squared_norm import squared_norm
from valuegrad.credit.value_gradient import final_value_gradient
from valuegrad.model.cache import prefill
from valuegrad.model.policy import Site, logits
from valuegrad.model.sites import shifted
from valuegrad.theory.case import COMPLETION, Case
from valuegrad.theory.statement import Form, Statement, equality

DRAWS, GROUP = 4000, 8
# Standard errors that an unbiased estimate may be off: missed once in 16,000 times.
Z_LIMIT = 4.0


def costate_statements(case: Case) -> Iterator[Statement]:
    """Def. 2 at every site, and what it is at ``"final"`` (correction A)."""
    policy, start = case.policy, len(case.prompt)
    found = costates_at(policy, case.batch(), policy.sites)
    left, right = [], []
    step = 1e-4
    for i, (site, costate) in enumerate(found.items()):
        t = i % COMPLETION
        direction = torch.randn(policy.head.shape[1], generator=case.generator).double()
        direction = (direction / direction.norm()).to(policy.device)
        moved = [_objective(case, site, t, k * step * direction) for k in (-2, -1, 1, 2)]
        left.append(costate.total[0, t] @ direction)
        right.append((moved[0] - 8 * moved[1] + 8 * moved[2] - moved[3]) / (12 * step))
    name = "costates of one backward pass = central differences, every site"
    yield equality(name, "Eq. 14", torch.stack(left), torch.stack(right), 1e-6)
    with torch.no_grad():
        _, finals = prefill(policy, case.sequence)
    (own,) = torch.autograd.grad(_credited(case, finals.requires_grad_()), finals)
    name = "final costate = Â (onehot − p) W, no credit from later tokens"
    yield equality(name, "Correction A", found["final"].total[0], own[start - 1 : -1])
    low = found["embedding"].transport_share[0, :-1]
    sides = one_step_costates(policy, case.sequence, start, case.advantages, "embedding")
    name = "recursion between final hidden vectors holds all credit, at embeddings"
    carried = f"{low.min():.0%} to {low.max():.0%} of the credit at the embeddings"
    note = f"J is zero at every layer; attention transports {carried}"
    yield equality(name, "Eq. 15", *sides, form="paper", note=note)


@torch.no_grad()
def _objective(case: Case, site: Site, t: int, shift: Tensor) -> Tensor:
    """Σ_k Â_k log π(o_k|s_k) with the hidden vector h_t moved."""
    with shifted(case.policy, site, len(case.prompt) - 1 + t, shift):
        _, finals = prefill(case.policy, case.sequence)
    return _credited(case, finals)


def _credited(case: Case, finals: Tensor) -> Tensor:
    """Σ_k Â_k log π(o_k|s_k) as a function of the states at ``"final"`` of the sequence."""
    start = len(case.prompt)
    log_p = logits(case.policy, finals[start - 1 : -1]).log_softmax(1)
    actions = torch.tensor(case.sequence[start:], device=log_p.device)
    objective: Tensor = case.advantages.to(log_p) @ log_p.gather(1, actions[:, None])[:, 0]
    return objective


def recursion_statements(case: Case) -> Iterator[Statement]:
    """Eq. 15 over the cache state, where it is exact."""
    batch = case.batch()
    found = cache_costates(case.policy, case.sequence, len(case.prompt), case.advantages)
    flat, oracle = (
        torch.cat([x.flatten() for pair in cache for x in pair])
        for cache in (found.cache, unrolled_costates(case.policy, batch))
    )
    name = "adjoint recursion over the cache state = autograd"
    yield equality(name, "Eq. 15, corrected", flat, oracle)
    (site,) = costates_at(case.policy, batch, ("embedding",), split=False).values()
    name = "recursion hands each token its total costate"
    yield equality(name, "Eq. 15, corrected", found.embedding, site.total[0, 1:])


def value_gradient_statements(case: Case) -> Iterator[Statement]:
    """Correction B over every token of the vocabulary, and the norms of correction C."""
    policy, prompt = case.policy, case.prompt
    count = policy.head.shape[0]
    rewards = torch.randn(count, generator=case.generator, dtype=torch.float64).to(policy.device)
    every = [[*prompt, token] for token in range(count)]
    scores: dict[Site, Tensor] = {}
    for site in ("embedding", "final"):
        found = enumerate_completions(policy, prompt, 1, site)
        p = found.probability.detach()
        scores[site] = scored(policy, every, len(prompt), site).total[:, 0]
        mean = p @ rewards
        sigma = (p @ (rewards - mean).square()).sqrt()
        estimate = (p * (rewards - mean) / sigma) @ scores[site] * sigma
        name = f"mean costate × σ = value gradient, random rewards, site {site}"
        note = "no sampling gap: correction B holds for discrete tokens and any reward"
        truth = enumerated_value_gradient(found, rewards)
        yield equality(name, "Eq. 12", estimate, truth, note=note)
    gradient = final_value_gradient(policy.head, p[None], rewards[None])[0]
    yield equality("value gradient = Wᵀ (p ⊙ (r − p·r))", "Theory §2", gradient, estimate)
    yield from _norms(case, p, scores["final"], rewards, gradient)


def _norms(
    case: Case, p: Tensor, scores: Tensor, rewards: Tensor, gradient: Tensor
) -> Iterator[Statement]:
    drawn = torch.multinomial(p.cpu(), DRAWS * GROUP, replacement=True, generator=case.generator)
    which = drawn.view(DRAWS, GROUP).to(p.device)
    signal, truth = rewards[which], gradient.square().sum()
    centred = (signal - signal.mean(1, keepdim=True)) * GROUP / (GROUP - 1)
    gram = (scores @ scores.mT)[which[:, :, None], which[:, None, :]]
    plug_in = (centred[:, :, None] * centred[:, None, :] * gram).sum((1, 2)) / GROUP**2
    unbiased = torch.cat([squared_norm(scores[w], rewards[w]) for w in torch.split(which, 500)])
    forms: tuple[tuple[str, Tensor, Form], ...] = (
        ("unbiased ‖G‖²", unbiased, "corrected"),
        ("plug-in ‖mean‖²", plug_in, "paper"),
    )
    note = f"error in standard errors, {DRAWS} draws of n = {GROUP}"
    for what, values, form in forms:
        name, mean = f"mean of {what} over draws = ‖G‖²", values.mean()
        z = (mean - truth) / (values.std() / DRAWS**0.5)
        sides = float(mean), float(truth), abs(float(z))
        yield Statement(name, "Correction C", *sides, Z_LIMIT, form=form, note=note)
