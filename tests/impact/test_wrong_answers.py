"""Wrong completions, drawn given that they are wrong, against all completions and their chances."""

import dataclasses
import math
from collections import Counter

import pytest
import torch
from scipy import stats
from tests import letters, oracles
from tests.oracles import completions as oracle

from valuegrad.impact import wrong_answers as module
from valuegrad.impact.wrong_answers import wrong_answers

SEEDS, EACH = 50, 16
DRAWS = SEEDS * EACH


def case():
    policy = letters.policy("gpt2", scale=0.35)
    texts = letters.answers("gpt2", ranks=((1, 0), (2, 0), (2, 1)), scale=0.35)
    return policy, letters.asked(policy, letters.task(texts))


def test_they_come_as_often_as_the_policy_has_them_given_that_they_miss():
    """By a χ² test over the 106 completions of each prompt, rare ones together."""
    policy, prompts = case()
    each = [wrong_answers(policy, prompts, EACH, seed) for seed in range(SEEDS)]
    every = oracle.every_completion(len(letters.TOKENS), letters.STOPS, letters.MAX_TOKENS)
    for row, ids in enumerate(prompts.tokens):
        right = set(oracle.accepted(prompts.answers[row], letters.STOPS))
        next_p = {
            seen: oracles.distribution(policy.model, [*ids, *seen])
            for seen in {c[:k] for c in every for k in range(len(c))}
        }
        chances = {
            c: math.prod(float(next_p[c[:k]][token]) for k, token in enumerate(c)) for c in every
        }
        missed = sum(p for c, p in chances.items() if c not in right)
        assert float(each[0].share[row]) == pytest.approx(missed, rel=1e-9)
        seen = Counter(c for found in each for c in found.completions[row])
        assert not right & set(seen)
        assert sum(seen.values()) == DRAWS
        wanted = {c: DRAWS * p / missed for c, p in chances.items() if c not in right}
        often = [c for c, n in wanted.items() if n >= 5]
        observed = [seen[c] for c in often]
        expected = [wanted[c] for c in often]
        observed.append(DRAWS - sum(observed))
        expected.append(DRAWS - sum(expected))
        assert len(often) > 10
        assert stats.chisquare(observed, expected).pvalue > 1e-4


def test_without_stop_tokens_every_completion_is_as_long_as_can_be():
    policy, prompts = case()
    open_ended = dataclasses.replace(
        prompts,
        stops=(),
        answers=tuple((*a, 2, 2)[: letters.MAX_TOKENS] for a in prompts.answers),
    )
    found = wrong_answers(policy, open_ended, 5, 0)
    for row, group in enumerate(found.completions):
        assert {len(c) for c in group} == {letters.MAX_TOKENS}
        assert open_ended.answers[row] not in group


def test_draws_do_not_depend_on_the_other_prompts():
    policy, prompts = case()
    whole = wrong_answers(policy, prompts, 6, 3)
    alone = wrong_answers(policy, prompts.some([2]), 6, 3)
    assert alone.completions[0] == whole.completions[2]
    other = wrong_answers(policy, prompts, 6, 4)
    assert other.completions != whole.completions


def test_the_first_miss_by_loops():
    p = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2], [0.6, 0.3, 0.1]], dtype=torch.float64)
    found = module._first_misses(p, [(2,), (0,), (0, 1)])
    expected = torch.tensor(
        [[0.1, 0.2, 0.0], [0.0, 0.7 * 0.3, 0.7 * 0.2], [0.0, 0.0, 0.7 * 0.5 * 0.1]],
        dtype=torch.float64,
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)
