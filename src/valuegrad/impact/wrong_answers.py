"""Completions that miss an exact answer, drawn given that they do: what length costs (Eq. 1).

A completion misses the answer y at the first step t at which it says something else. Teacher
forcing gives the probability of every step and token at which it may, so that only what follows is
drawn, and none of the draws is the answer itself.

N prompts · T tokens of an answer, stop included · V vocabulary
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.credit.answer_gradients import scored_answers
from valuegrad.model.policy import Policy, logits
from valuegrad.prompts import Prompts
from valuegrad.sampler import draw, uniform_numbers


@dataclass(frozen=True, eq=False)
class WrongAnswers:
    """Completions of each prompt that miss its answer, as likely as the policy has them miss it."""

    completions: list[list[tuple[int, ...]]]
    share: Float[Tensor, " N"]  # 1 − V, the probability of missing it


@torch.no_grad()
def wrong_answers(policy: Policy, prompts: Prompts, count: int, seed: Hashable) -> WrongAnswers:
    """Draw a number of completions of each prompt, given that they are not accepted."""
    share = torch.zeros(len(prompts), dtype=torch.float64)
    begun: list[list[tuple[int, ...]]] = [[] for _ in range(len(prompts))]
    for batch in scored_answers(policy, prompts):
        p = logits(policy, batch.final_states(policy)).double().softmax(1)
        for i, row in enumerate(batch.rows):
            steps = p[batch.row == i]
            answer = prompts.answers[row]
            chance = _first_misses(steps, [*[(a,) for a in answer], prompts.stops])
            share[row] = chance.sum()
            point = uniform_numbers((seed, "miss"), prompts.tokens[row], count, 1)[:, 0]
            ends = chance.flatten().cumsum(0)
            place = torch.searchsorted(ends, point.to(ends) * ends[-1], right=True)
            width = p.shape[1]
            begun[row] = [
                (*answer[: x // width], x % width) for x in place.clamp(max=len(ends) - 1).tolist()
            ]
    return WrongAnswers(_continued(policy, prompts, begun, seed), share)


def _first_misses(
    p: Float[Tensor, "T V"], accepted: Sequence[Sequence[int]]
) -> Float[Tensor, "T V"]:
    """The probability that step t is the first wrong one, and of the token said there."""
    p, right = p.clone(), []
    for step, tokens in zip(p, accepted, strict=False):
        right.append(step[list(tokens)].sum())
        step[list(tokens)] = 0
    before = torch.stack([p.new_ones(()), *right[:-1]]).cumprod(0)
    return p * before[:, None]


def _continued(
    policy: Policy, prompts: Prompts, begun: list[list[tuple[int, ...]]], seed: Hashable
) -> list[list[tuple[int, ...]]]:
    """What was begun, drawn to its end where neither a stop nor the most tokens ended it."""
    found = [list(group) for group in begun]
    waiting = [
        (row, i)
        for row, group in enumerate(begun)
        for i, c in enumerate(group)
        if c[-1] not in prompts.stops and len(c) < prompts.max_tokens
    ]
    turn = 0
    while waiting:
        # What begins alike would be continued alike: each in a turn of its own.
        places = {(*prompts.tokens[row], *begun[row][i]): (row, i) for row, i in waiting}
        limits = [prompts.max_tokens - len(begun[row][i]) for row, i in places.values()]
        drawn, _ = draw(policy, list(places), limits, prompts.stops, 1, (seed, "rest", turn))
        for (row, i), (rest,) in zip(places.values(), drawn, strict=True):
            found[row][i] = (*begun[row][i], *rest)
        done = set(places.values())
        waiting, turn = [place for place in waiting if place not in done], turn + 1
    return found
