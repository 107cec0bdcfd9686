"""The statements of relaxed rollouts: Def. 1, and the parts of a step in Eqs. 19 and 20."""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from valuegrad.credit.jacobians import of_function, sampling_jacobian
from valuegrad.credit.relaxed import relaxed_costates
from valuegrad.model.cache import decode_embedding, prefill
from valuegrad.model.policy import logits
from valuegrad.model.sites import shifted, without_parameter_gradients
from valuegrad.theory.case import Case
from valuegrad.theory.differences import DIFFERENCES, difference, unit_direction
from valuegrad.theory.statement import Statement, equality

STEPS, TEMPERATURE, DIRECTIONS = 3, 0.7, 3


def relaxed_statements(case: Case) -> Iterator[Statement]:
    """Costates of a relaxed rollout, every path open and attention alone; the parts of one step."""
    policy, site = case.policy, case.middle
    signal = torch.randn(policy.head.shape[0], generator=case.generator, dtype=torch.float64)

    def reward(soft: Tensor) -> Tensor:
        return (soft @ signal.to(soft)).square().mean()

    found = relaxed_costates(policy, case.prompt, STEPS, reward, site=site, temperature=TEMPERATURE)
    held = list(found.soft_tokens @ policy.embedding)
    sides: dict[str, list[Tensor]] = {"bptt": [], "attention_only": [], "open": [], "held": []}
    for t in range(STEPS):
        direction = unit_direction(policy, case.generator)
        moved = partial(_soft_tokens, case, t, direction)
        sides["bptt"].append(found.bptt[t] @ direction)
        sides["attention_only"].append(found.attention_only[t] @ direction)
        sides["open"].append(difference(lambda x, m=moved: reward(m(x))))  # type: ignore[misc]
        sides["held"].append(difference(lambda x, m=moved: reward(m(x, held))))  # type: ignore[misc]
    stacked = {name: torch.stack(side) for name, side in sides.items()}
    name, note = "BPTT costates = central differences of the relaxed return", f"at site {site}"
    yield equality(name, "Def. 1", stacked["bptt"], stacked["open"], DIFFERENCES, note=note)
    name = "attention-only costates = the same with the tokens that are read held"
    sides_of = stacked["attention_only"], stacked["held"]
    yield equality(name, "Eq. 19", *sides_of, DIFFERENCES, note=note)
    yield _decomposition(case)


@torch.no_grad()
def _soft_tokens(
    case: Case, moved: int, direction: Tensor, length: float, held: list[Tensor] | None = None
) -> Tensor:
    """The soft tokens of a rollout written out, one step's state moved; it may read held tokens."""
    policy, soft = case.policy, list[Tensor]()
    for t in range(STEPS):
        here = shifted(policy, case.middle, -1, length * direction) if t == moved else nullcontext()
        with here:
            if t == 0:
                cache, finals = prefill(policy, case.prompt)
            else:
                e = soft[-1] @ policy.embedding if held is None else held[t - 1]
                cache, finals = decode_embedding(policy, cache, e[None])
        soft.append((logits(policy, finals[-1]) / TEMPERATURE).softmax(0))
    return torch.stack(soft)


def _decomposition(case: Case) -> Statement:
    """J_exact = J_attn + J_sample of one step, along random directions of the state below."""
    policy = case.policy
    with torch.no_grad():
        cache, finals = prefill(policy, case.prompt)
        soft = (logits(policy, finals[-1]) / TEMPERATURE).softmax(0)
    e = soft @ policy.embedding
    with without_parameter_gradients(policy.model):
        step = of_function(lambda x: decode_embedding(policy, cache, x)[1], e)
    sample = sampling_jacobian(policy, step, soft, TEMPERATURE)

    @torch.no_grad()
    def reached(direction: Tensor, length: float) -> Tensor:
        """h_{t+1} with its token free, with it held, and h_t itself."""
        with shifted(policy, case.middle, -1, length * direction):
            moved, states = prefill(policy, case.prompt)
        own = (logits(policy, states[-1]) / TEMPERATURE).softmax(0) @ policy.embedding
        after = [decode_embedding(policy, moved, x[None])[1][0] for x in (own, e)]
        return torch.stack([*after, states[-1]])

    left, right = [], []
    for _ in range(DIRECTIONS):
        direction = unit_direction(policy, case.generator)
        exact, attention, own = difference(partial(reached, direction))
        left.append(exact)
        right.append(attention + torch.from_numpy(sample @ own.cpu().numpy()).to(exact))
    name = f"J_exact = J_attn + J_sample ∂h_t/∂h, along {DIRECTIONS} directions"
    return equality(name, "Eq. 20", torch.stack(left), torch.stack(right), DIFFERENCES)
