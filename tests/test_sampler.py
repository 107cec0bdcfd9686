"""Draws are the policy's: their distribution, log-probabilities, ends and rewards."""

import dataclasses
import math

import pytest
import torch
from scipy import stats
from tests import letters, oracles
from tests.conftest import ARCHITECTURES
from tests.oracles import completions as oracle

from valuegrad import sampler as module
from valuegrad.credit.scores import prompt_state_scores
from valuegrad.errors import RunError, UserError
from valuegrad.prompts import stop_tokens
from valuegrad.rewards.function import FunctionReward
from valuegrad.sampler import check_log_probabilities, rollouts

LEVEL = 1e-4
MANY = 4000


def case(architecture="llama", **options):
    policy = letters.policy(architecture, **options)
    return policy, letters.asked(policy, letters.task(letters.answers(architecture)))


def recomputed(policy, drawn):
    """log π of every completion by forward passes of its own, a token at a time."""
    with torch.no_grad():
        return torch.tensor(
            [
                [float(oracle.log_probability(policy.model, list(prefix), c)) for c in group]
                for prefix, group in zip(drawn.prefixes, drawn.completions, strict=True)
            ]
        )


def p_value(counts, probabilities):
    """Of a chi-square test; outcomes expected fewer than 5 times are taken together."""
    expected = [p * sum(counts) for p in probabilities]
    pairs = [pair for pair in zip(counts, expected, strict=True) if pair[1] >= 5]
    rare = [pair for pair in zip(counts, expected, strict=True) if pair[1] < 5]
    if rare:
        pairs.append(tuple(map(sum, zip(*rare, strict=True))))
    return stats.chisquare(*zip(*pairs, strict=True)).pvalue


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_completions_come_as_often_as_the_policy_says(architecture):
    """4,000 completions of each prompt, drawn in one batch: first token, second, and the whole."""
    policy, prompts = case(architecture)
    drawn = rollouts(policy, prompts, MANY, seed=11)
    every = oracle.every_completion(len(letters.TOKENS), letters.STOPS, letters.MAX_TOKENS)
    for row, ids in enumerate(prompts.tokens):
        group = drawn.completions[row]
        assert set(group) <= set(every)
        first = oracles.distribution(policy.model, list(ids)).tolist()
        counts = [sum(c[0] == a for c in group) for a in range(len(first))]
        assert p_value(counts, first) > LEVEL
        likely = max((a for a in range(2, len(first))), key=first.__getitem__)
        second = oracles.distribution(policy.model, [*ids, likely]).tolist()
        after = [c[1] for c in group if c[0] == likely]
        assert p_value([after.count(a) for a in range(len(second))], second) > LEVEL
        with torch.no_grad():
            p = [float(oracle.log_probability(policy.model, list(ids), c).exp()) for c in every[:8]]
        counts = [group.count(c) for c in every[:8]]
        assert p_value([*counts, MANY - sum(counts)], [*p, 1 - sum(p)]) > LEVEL


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_log_probabilities_are_those_of_the_completions(architecture, dtype):
    policy, prompts = case(architecture, dtype=dtype)
    drawn = rollouts(policy, prompts, 6, seed=0)
    expected = recomputed(letters.policy(architecture), drawn)
    torch.testing.assert_close(drawn.logp, expected.double(), rtol=0, atol=1e-4)
    _, logp = prompt_state_scores(policy, drawn, 0)
    assert check_log_probabilities(policy, drawn.logp, logp) < 1e-4
    off = dataclasses.replace(drawn, logp=drawn.logp + 0.05 * torch.eye(3, 6))
    with pytest.raises(RunError, match=r"differ by 0\.05 nats"):
        check_log_probabilities(policy, off.logp, logp)
    with pytest.raises(RunError, match="differ by nan"):
        check_log_probabilities(policy, drawn.logp, logp * math.nan)


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3"])
def test_a_group_does_not_depend_on_its_batch(monkeypatch, architecture):
    policy, prompts = case(architecture)
    whole = rollouts(policy, prompts, 8, seed=5)
    for rows in ([1], [2, 0]):
        some = rollouts(policy, prompts, 8, seed=5, rows=rows)
        assert some.completions == tuple(whole.completions[r] for r in rows)
        torch.testing.assert_close(some.logp, whole.logp[rows], rtol=0, atol=1e-5)
        assert torch.equal(some.rewards, whole.rewards[rows])
    monkeypatch.setattr(module, "CACHE_TOKENS", 1)
    assert rollouts(policy, prompts, 8, seed=5).completions == whole.completions
    assert rollouts(policy, prompts, 8, seed=6).completions != whole.completions
    longer = dataclasses.replace(prompts, max_tokens=6)
    for short, long in zip(
        whole.completions, rollouts(policy, longer, 8, seed=5).completions, strict=True
    ):
        assert [c[:3] for c in long] == list(short)


def test_groups_of_different_prompts_and_seeds_are_independent():
    """Of 2,000 rollouts the first tokens of two prompts, or two seeds, by number: a chi-square."""
    policy, prompts = case("llama")
    one, other = (rollouts(policy, prompts, 2000, seed=seed) for seed in (1, 2))
    pairs = [(one.completions[0], one.completions[1]), (one.completions[2], other.completions[2])]
    for a, b in pairs:
        table = torch.zeros(len(letters.TOKENS), len(letters.TOKENS))
        for x, y in zip(a, b, strict=True):
            table[x[0], y[0]] += 1
        table = table[table.sum(1) > 50][:, table.sum(0) > 50]
        assert min(table.shape) > 1
        assert stats.chi2_contingency(table.numpy()).pvalue > LEVEL


def test_ends_are_counted():
    policy, prompts = case("llama")
    drawn = rollouts(policy, prompts, 64, seed=1)
    seen = set()
    for row, group in enumerate(drawn.completions):
        for i, completion in enumerate(group):
            stopped = completion[-1] in letters.STOPS
            assert not set(completion[:-1]) & set(letters.STOPS)
            assert stopped or len(completion) == letters.MAX_TOKENS
            assert bool(drawn.truncated[row, i]) == (not stopped)
            assert bool(drawn.empty[row, i]) == (stopped and len(completion) == 1)
            words = completion[:-1] if stopped else completion
            assert drawn.texts[row][i] == letters.text(words)
            seen.add((stopped, len(completion)))
    assert seen == {(True, 1), (True, 2), (True, 3), (False, 3)}
    flat = [c for group in drawn.completions for c in group]
    assert drawn.lengths == [len(p) for p in drawn.prefixes for _ in range(64)]
    assert [s[n:] for s, n in zip(drawn.sequences, drawn.lengths, strict=True)] == flat


def test_without_stop_tokens_every_completion_is_whole():
    policy, prompts = case("gpt_neox")
    endless = dataclasses.replace(prompts, stops=(), max_tokens=2)
    drawn = rollouts(policy, endless, 200, seed=1)
    assert {len(c) for group in drawn.completions for c in group} == {2}
    assert not drawn.truncated.any()
    assert not drawn.empty.any()
    # A stop token of the checkpoint's own is a token like any other.
    assert any(c[0] == 0 for group in drawn.completions for c in group)
    rewards = [
        [float(c == a) for c in group]
        for a, group in zip(endless.answers, drawn.completions, strict=True)
    ]
    assert drawn.rewards.tolist() == rewards


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_generation_settings_of_a_checkpoint_change_nothing(architecture):
    settings = (
        ("do_sample", True),
        ("temperature", 0.1),
        ("top_k", 1),
        ("top_p", 0.2),
        ("repetition_penalty", 5.0),
        ("max_new_tokens", 1),
        ("eos_token_id", (2, 3, 4)),
        ("suppress_tokens", (2, 3)),
        ("min_new_tokens", 3),
        ("num_return_sequences", 2),
    )
    plain, prompts = case(architecture)
    odd = letters.policy(architecture, generation=settings)
    assert odd.model.generation_config.top_k == 1
    before = odd.model.generation_config.to_dict()
    one, other = rollouts(plain, prompts, 32, seed=2), rollouts(odd, prompts, 32, seed=2)
    assert one.completions == other.completions
    torch.testing.assert_close(one.logp, other.logp, rtol=0, atol=1e-12)
    assert odd.model.generation_config.to_dict() == before
    # Its stop tokens are read where prompts are made, the tokenizer's and the task's added.
    assert stop_tokens(odd, letters.task(letters.answers(architecture))) == (2, 3, 4, 0, 1)


@pytest.mark.parametrize("architecture", ["gpt2", "olmo2"])
def test_deeper_states_go_on_and_are_rewarded_as_a_whole(architecture):
    policy, prompts = case(architecture)
    rows, forks = [2, 1, 2], [prompts.answers[2][:1], (), prompts.answers[2]]
    drawn = rollouts(policy, prompts, 500, seed=4, rows=rows, forks=forks)
    for i, (row, fork) in enumerate(zip(rows, forks, strict=True)):
        assert drawn.prefixes[i] == (*prompts.tokens[row], *fork)
        right = set(prompts.accepted(row))
        for completion, reward, text in zip(
            drawn.completions[i], drawn.rewards[i].tolist(), drawn.texts[i], strict=True
        ):
            whole = (*fork, *completion)
            assert len(whole) <= letters.MAX_TOKENS
            assert reward == float(whole in right)
            assert text == letters.text(t for t in whole if t not in letters.STOPS)
        ids, answer = list(prompts.tokens[row]), prompts.answers[row]
        value = oracle.value(policy.model, ids, answer, letters.STOPS, t=len(fork) + 1).item()
        assert stats.binomtest(int(drawn.rewards[i].sum()), 500, value).pvalue > LEVEL
    # A stop token alone is not an empty completion where others came before it.
    assert not drawn.empty[2].any()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_deeper_states_of_unequal_limits_fit_the_context(architecture):
    """Together the longest prefix and the highest limit would pass the end of the context."""
    policy = letters.policy(architecture)
    length = policy.context - 4
    prompts = letters.asked(policy, letters.task(("a",), ("abcd" * (length // 4),), max_tokens=4))
    drawn = rollouts(policy, prompts, 16, seed=0, rows=[0, 0], forks=[(2, 3, 4), ()])
    assert {len(c) for c in drawn.completions[0]} == {1}
    torch.testing.assert_close(drawn.logp, recomputed(policy, drawn).double(), rtol=0, atol=1e-4)
    (alone,) = rollouts(policy, prompts, 16, seed=0).completions
    assert drawn.completions[1] == alone


def test_a_function_reads_what_was_drawn():
    policy, prompts = case("llama")
    seen = []

    def f(prompts, completions, completion_ids, answer, **_):
        seen.extend(zip(prompts, completions, completion_ids, answer, strict=True))
        return [len(c) / 4 for c in completions]

    graded = dataclasses.replace(prompts, reward=FunctionReward("tests:f", f))
    drawn = rollouts(policy, graded, 16, seed=0)
    assert drawn.completions == rollouts(policy, prompts, 16, seed=0).completions
    flat = [c for group in drawn.completions for c in group]
    assert [tuple(ids) for _, _, ids, _ in seen] == flat
    assert [p for p, _, _, _ in seen] == [p for p in letters.PROMPTS for _ in range(16)]
    assert [a for _, _, _, a in seen] == [a for a in letters.answers("llama") for _ in range(16)]
    assert drawn.rewards.tolist() == [[len(t) / 4 for t in group] for group in drawn.texts]


@pytest.mark.parametrize("size", [0, -1])
def test_no_rollouts_are_refused(size):
    policy, prompts = case("llama")
    with pytest.raises(UserError, match=f"group_size: got {size}; wanted 1 or more"):
        rollouts(policy, prompts, size, seed=0)
