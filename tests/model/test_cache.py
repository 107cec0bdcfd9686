"""Prefill and decode steps against one forward pass over the whole sequence."""

import pytest
import torch
from scipy import stats
from tests import letters, oracles
from tests.conftest import ARCHITECTURES

from valuegrad.model.cache import (
    decode_embedding,
    decode_embeddings,
    decode_step,
    first_positions,
    prefill,
    sampled,
)

TOKENS = [5, 9, 33, 7, 41, 260]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_reading_and_advancing_reach_the_states_of_a_whole_pass(policy, architecture):
    chosen = policy(architecture)
    with torch.no_grad():
        ids = torch.tensor([TOKENS])
        whole = chosen.model.base_model(ids, use_cache=False).last_hidden_state[0]
        reached, finals = prefill(chosen, TOKENS)
        torch.testing.assert_close(finals, whole, rtol=1e-12, atol=1e-12)
        cache, finals = prefill(chosen, TOKENS[:2])
        torch.testing.assert_close(finals, whole[:2], rtol=1e-12, atol=1e-12)
        for t in range(2, len(TOKENS)):
            cache, final = decode_step(chosen, cache, TOKENS[t])
            torch.testing.assert_close(final, whole[t], rtol=1e-11, atol=1e-12)
    for pair, expected in zip(cache, reached, strict=True):
        for one, other in zip(pair, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)
    # A step from the cache of the first tokens is one from a cache that never held the others.
    with torch.no_grad():
        _, final = decode_step(chosen, first_positions(reached, 3), TOKENS[3])
    torch.testing.assert_close(final, whole[3], rtol=1e-11, atol=1e-12)
    assert reached[0][0].shape[2] == len(TOKENS)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_embeddings_advance_several_copies_at_once(policy, architecture):
    chosen = policy(architecture)
    table = chosen.model.get_input_embeddings().weight.detach()
    with torch.no_grad():
        cache, _ = prefill(chosen, TOKENS[:3])
        many, finals = decode_embedding(chosen, cache, table[[7, 200, 7]])
        for i, token in enumerate((7, 200, 7)):
            one, final = decode_step(chosen, cache, token)
            torch.testing.assert_close(finals[i], final, rtol=1e-11, atol=1e-12)
            for (keys, values), (own_keys, own_values) in zip(many, one, strict=True):
                torch.testing.assert_close(keys[i], own_keys[0], rtol=1e-11, atol=1e-12)
                torch.testing.assert_close(values[i], own_values[0], rtol=1e-11, atol=1e-12)
    # The cache that is read from stays as it is.
    assert cache[0][0].shape[:3:2] == (1, 3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_several_embeddings_in_one_pass_are_steps_in_turn(policy, architecture):
    chosen = policy(architecture)
    table = chosen.model.get_input_embeddings().weight.detach()
    with torch.no_grad():
        cache, _ = prefill(chosen, TOKENS[:3])
        reached, finals = decode_embeddings(chosen, cache, table[TOKENS[3:]][None])
        for t, token in enumerate(TOKENS[3:]):
            cache, final = decode_step(chosen, cache, token)
            torch.testing.assert_close(finals[0, t], final, rtol=1e-11, atol=1e-12)
    for pair, expected in zip(reached, cache, strict=True):
        for one, other in zip(pair, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def test_a_step_is_differentiable_in_all_that_it_reads(policy):
    chosen = policy("llama")
    with torch.no_grad():
        cache, _ = prefill(chosen, TOKENS[:3])
    leaves = [x.clone().requires_grad_() for pair in cache for x in pair]
    pairs = list(zip(leaves[::2], leaves[1::2], strict=True))
    embedding = chosen.model.get_input_embeddings().weight[7].detach().clone().requires_grad_()
    _, final = decode_embedding(chosen, pairs, embedding[None])
    grads = torch.autograd.grad(final.square().sum(), [embedding, *leaves])
    assert all(g.norm() > 0 for g in grads)


def test_draws_are_the_policys_and_end_where_they_should():
    policy = letters.policy("llama")
    prompt = letters.ids("ab")
    generator = torch.Generator().manual_seed(3)
    drawn = [sampled(policy, prompt, 2, generator, frozenset(letters.STOPS)) for _ in range(400)]
    p = oracles.distribution(policy.model, prompt).tolist()
    counts = [sum(c[0] == token for c in drawn) for token in range(len(p))]
    assert stats.chisquare(counts, [400 * x for x in p]).pvalue > 1e-4
    assert all(len(c) == 1 + (c[0] not in letters.STOPS) for c in drawn)
    again = sampled(policy, prompt, 2, torch.Generator().manual_seed(3), frozenset(letters.STOPS))
    assert again == drawn[0]
