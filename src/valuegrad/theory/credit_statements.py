"""The statements of costates: Eqs. 14, 15, correction A."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from valuegrad.credit.cache_recursion import cache_costates, one_step_costates, unrolled_costates
from valuegrad.credit.costates import costates_at
from valuegrad.model.cache import prefill
from valuegrad.model.policy import Site, logits
from valuegrad.model.sites import shifted
from valuegrad.theory.case import COMPLETION, Case
from valuegrad.theory.differences import DIFFERENCES, difference, unit_direction
from valuegrad.theory.statement import Statement, equality


def costate_statements(case: Case) -> Iterator[Statement]:
    """Def. 2 at every site, and what it is at ``"final"`` (correction A)."""
    policy, start = case.policy, len(case.prompt)
    found = costates_at(policy, case.batch(), policy.sites)
    left, right = [], []
    for i, (site, costate) in enumerate(found.items()):
        t, direction = i % COMPLETION, unit_direction(policy, case.generator)
        moved = partial(_objective, case, site, t, direction)
        left.append(costate.total[0, t] @ direction)
        right.append(difference(moved))
    name = "costates of one backward pass = central differences, every site"
    yield equality(name, "Eq. 14", torch.stack(left), torch.stack(right), DIFFERENCES)
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
def _objective(case: Case, site: Site, t: int, direction: Tensor, length: float) -> Tensor:
    """Σ_k Â_k log π(o_k|s_k) with the hidden vector h_t moved along a direction."""
    with shifted(case.policy, site, len(case.prompt) - 1 + t, length * direction):
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
