"""Batches: padding, scored positions, and what must not depend on how rows are put together."""

import pytest
import torch
from tests import oracles
from tests.conftest import ARCHITECTURES
from tests.oracles import completions as oracle

from valuegrad.model import batches as module
from valuegrad.model.batches import (
    batches,
    entropies,
    equal_lengths,
    final_states,
    head_chunks,
    left_padded,
    probabilities,
    prompt_states,
    right_padded,
    scored_batches,
)
from valuegrad.model.policy import logits

SEQUENCES = ((5, 9, 33, 7, 41), (3, 8), (90, 5, 6, 7, 8, 9, 10, 11), (4, 5, 6), (12, 260))
PROMPTS = (2, 1, 5, 2, 1)


def test_batches_hold_every_row_once_and_stay_within_the_tokens(monkeypatch):
    lengths = [5, 3, 9, 1, 7, 7, 2, 40]
    cut = batches(lengths, tokens=14)
    assert sorted(row for batch in cut for row in batch) == list(range(8))
    for batch in cut:
        assert len(batch) * max(lengths[row] for row in batch) <= 14 or len(batch) == 1
    assert batches([3, 1, 2], tokens=4) == [[1, 2], [0]]
    assert [len(batch) for batch in batches(lengths)] == [8]
    monkeypatch.setattr(module, "BATCH_TOKENS", 14)
    assert batches(lengths) == cut
    assert batches([]) == []


def test_padding_is_on_the_side_it_is_said_to_be(policy):
    rows = SEQUENCES[:3]
    right = right_padded(policy("gpt2"), rows)
    left, mask = left_padded(policy("gpt2"), rows)
    assert right.shape == left.shape == mask.shape == (3, 8)
    for i, row in enumerate(rows):
        empty = [0] * (8 - len(row))
        assert right[i].tolist() == [*row, *empty]
        assert left[i].tolist() == [*empty, *row]
        assert mask[i].tolist() == [*empty, *(1 for _ in row)]


@pytest.mark.parametrize("past_end", [False, True])
@pytest.mark.parametrize(("tokens", "most"), [(None, None), (12, None), (1, None), (None, 2)])
def test_scored_positions_are_those_that_predict_the_completion(policy, past_end, tokens, most):
    chosen = policy("gpt2")
    found = {}
    parts = list(
        scored_batches(chosen, SEQUENCES, PROMPTS, tokens, past_end=past_end, most_rows=most)
    )
    for part in parts:
        assert part.ids.shape[0] == len(part.rows) <= (most or 5)
        columns = zip(part.row, part.position, part.step, part.target, strict=True)
        for i, position, step, target in (map(int, entry) for entry in columns):
            row = part.rows[i]
            assert part.ids[i, : len(SEQUENCES[row])].tolist() == list(SEQUENCES[row])
            found[row, step] = (position, target)
    expected = {
        (row, t): (start - 1 + t, (*sequence, -1)[start + t])
        for row, (sequence, start) in enumerate(zip(SEQUENCES, PROMPTS, strict=True))
        for t in range(len(sequence) - start + past_end)
    }
    assert found == expected
    assert len(parts) == {(None, None): 1, (12, None): 3, (1, None): 5, (None, 2): 3}[tokens, most]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_final_states_of_scored_positions_give_the_completions_probability(policy, architecture):
    """By an array of all sequences by step, against a forward pass a token, and at past ends."""
    chosen = policy(architecture)
    log_p = torch.zeros(5, 4, dtype=torch.float64)
    ends = {}
    for part in scored_batches(chosen, SEQUENCES, PROMPTS, 16, past_end=True):
        with torch.no_grad():
            every = logits(chosen, part.final_states(chosen)).log_softmax(1)
        inside = part.target >= 0
        rows, steps = part.into
        picked = every.gather(1, part.target.clamp(min=0)[:, None])[:, 0]
        log_p[rows[inside], steps[inside]] = picked[inside]
        ends |= {int(row): p for row, p in zip(rows[~inside], every[~inside].exp(), strict=True)}
        assert torch.equal(part.ids[part.at][steps > 0], part.target[steps.roll(-1) > 0])
    for row, (sequence, start) in enumerate(zip(SEQUENCES, PROMPTS, strict=True)):
        prompt, completion = list(sequence[:start]), sequence[start:]
        with torch.no_grad():
            expected = oracle.log_probability(chosen.model, prompt, completion)
        torch.testing.assert_close(log_p[row].sum(), expected, rtol=1e-11, atol=0)
        after = oracles.distribution(chosen.model, list(sequence))
        torch.testing.assert_close(ends[row], after, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_batches_and_order_change_no_state(policy, monkeypatch, architecture):
    chosen = policy(architecture)
    together = prompt_states(chosen, SEQUENCES)
    assert not together.requires_grad
    for row, tokens in enumerate(SEQUENCES):
        alone = final_states(chosen, [tokens])[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-12, atol=1e-12)
    backwards = prompt_states(chosen, SEQUENCES[::-1]).flip(0)
    torch.testing.assert_close(backwards, together, rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(module, "BATCH_TOKENS", 1)
    torch.testing.assert_close(prompt_states(chosen, SEQUENCES), together, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_probabilities_and_entropies_are_in_float64(policy, monkeypatch, dtype):
    chosen = policy("llama", dtype)
    states = prompt_states(chosen, SEQUENCES)
    p = probabilities(chosen, states)
    assert p.dtype == torch.float64
    torch.testing.assert_close(p.sum(1), torch.ones(5).double(), rtol=1e-12, atol=0)
    expected = [-sum(x * x.log() for x in row if x > 0) for row in p]
    found = entropies(chosen, states)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-12, atol=0)
    if dtype == "float64":
        for row, tokens in enumerate(SEQUENCES):
            exact = oracles.distribution(chosen.model, list(tokens))
            torch.testing.assert_close(p[row], exact, rtol=1e-10, atol=1e-15)
    monkeypatch.setattr(module, "HEAD_ELEMENTS", 2 * chosen.head.shape[0])
    assert head_chunks(chosen, 5) == [[0, 1], [2, 3], [4]]
    # Logits in the model's dtype round as their chunk has it.
    rtol = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 1e-2}[dtype]
    torch.testing.assert_close(entropies(chosen, states), found, rtol=rtol, atol=0)


def test_a_row_of_the_head_larger_than_the_setting_is_a_chunk_of_its_own(policy, monkeypatch):
    monkeypatch.setattr(module, "HEAD_ELEMENTS", 1)
    assert head_chunks(policy("gpt2"), 3) == [[0], [1], [2]]


def test_prompts_of_one_length_come_together(monkeypatch):
    prompts = [[1] * n for n in (3, 2, 3, 3, 2, 50)]
    assert sorted(equal_lengths(prompts)) == [[0, 2, 3], [1, 4], [5]]
    monkeypatch.setattr(module, "BATCH_TOKENS", 6)
    assert sorted(equal_lengths(prompts)) == [[0, 2], [1, 4], [3], [5]]
