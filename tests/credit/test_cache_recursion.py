"""The adjoint recursion over the cache state against autograd, and the paper's form beside it."""

import pytest
import torch
from tests.conftest import ARCHITECTURES

from valuegrad.credit.cache_recursion import cache_costates, one_step_costates, unrolled_costates
from valuegrad.credit.completions import completions
from valuegrad.credit.costates import costates

SEQUENCE, PROMPT = [5, 9, 33, 7, 41, 260, 17, 2], 3
ADVANTAGES = torch.tensor([0.7, -1.1, 2.0, 0.4, -0.6], dtype=torch.float64)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_recursion_equals_autograd(policy, architecture):
    chosen = policy(architecture)
    found = cache_costates(chosen, SEQUENCE, PROMPT, ADVANTAGES)
    batch = completions(chosen, [SEQUENCE], PROMPT, ADVANTAGES[None])
    expected = unrolled_costates(chosen, batch)
    for pair, pair_expected in zip(found.cache, expected, strict=True):
        for one, other in zip(pair, pair_expected, strict=True):
            assert other.norm() > 0
            assert (one - other).norm() <= 1e-10 * other.norm()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_recursion_hands_each_token_its_total_costate(policy, architecture):
    """A route through no cache at all: the costates of the whole sequence in one pass."""
    chosen = policy(architecture)
    found = cache_costates(chosen, SEQUENCE, PROMPT, ADVANTAGES)
    for site, one in (("embedding", found.embedding), ("final", found.final)):
        total = costates(chosen, [SEQUENCE], PROMPT, ADVANTAGES[None], site).total[0]
        expected = total[1:] if site == "embedding" else total
        assert (one - expected).norm() <= 1e-10 * expected.norm()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_paper_s_one_step_form_loses_what_attention_transports(policy, architecture):
    chosen = policy(architecture)
    for site, exact in (("embedding", False), (0, False), (1, True), ("final", True)):
        paper, true = one_step_costates(chosen, SEQUENCE, PROMPT, ADVANTAGES, site)
        error = float((paper - true).norm() / true.norm())
        assert error < 1e-12 if exact else error > 0.02


def test_a_completion_of_one_token_has_no_step(policy):
    found = cache_costates(policy("olmo2"), [5, 9], 1, [1.0])
    assert found.embedding.shape == (0, 16)
    assert not any(x.any() for pair in found.cache for x in pair)
