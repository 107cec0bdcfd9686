"""Groups written out, against every single action of every member of a group."""

import itertools
import math

import pytest
import torch

from valuegrad.methods import advantages
from valuegrad.theory.group_enumeration import batches, groups, limit_groups, slope


@pytest.mark.parametrize("method", ["grpo", "dr_grpo", "rloo", "reinforce"])
@pytest.mark.parametrize("p", [0.01, 0.4, 0.97])
def test_a_slope_is_that_of_all_actions_of_all_others(method, p):
    expected = 0.0
    for others in itertools.product((0.0, 1.0), repeat=3):
        chance = math.prod(p if r else 1 - p for r in others)
        group = torch.tensor([[1.0, *others], [0.0, *others]], dtype=torch.float64)
        high, low = advantages(group, method)[:, 0].tolist()
        expected += chance * (high - low)
    assert slope(groups(p, 4, method)) == pytest.approx(expected, rel=1e-12)


def test_a_batch_s_other_prompt_is_drawn_evenly():
    pool, p, expected = [0.2, 0.9], 0.4, 0.0
    for q in pool:
        for rest in itertools.product((0.0, 1.0), repeat=3):
            chance = math.prod(
                c if r else 1 - c for r, c in zip(rest, (p, q, q), strict=True)
            ) / len(pool)
            found = []
            for own in (1.0, 0.0):
                batch = torch.tensor([[own, rest[0]], [rest[1], rest[2]]], dtype=torch.float64)
                found.append(float(advantages(batch, "ppo")[0, 0]))
            expected += chance * (found[0] - found[1])
    assert slope(batches(p, pool, 2)) == pytest.approx(expected, rel=1e-12)


def test_probabilities_sum_to_one_and_large_groups_approach_their_limit():
    for every in (groups(0.3, 5), batches(0.3, [0.1, 0.6], 3)):
        assert math.fsum(chance for chance, _, _ in every) == pytest.approx(1, rel=1e-12)
    (limit,) = (slope(limit_groups(0.3)),)
    assert slope(groups(0.3, 300)) == pytest.approx(limit, rel=5e-3)
    assert slope(groups(0.3, 3)) < 0.7 * limit
