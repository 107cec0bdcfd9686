"""The update of every method against the gradients of all groups that RL can draw."""

import functools
import itertools
import math

import pytest
import torch
from tests import letters, oracles
from tests.oracles import completions as oracle

from valuegrad.impact import sampled_update, teacher_forced
from valuegrad.impact.sampled_update import mean_advantages, update
from valuegrad.impact.update import Update, add_gradients, clipped, length, moving_parameters
from valuegrad.impact.wrong_answers import WrongAnswers
from valuegrad.methods import PER_LENGTH
from valuegrad.rewards.function import FunctionReward
from valuegrad.sampler import rollouts

SIZE, DRAWS = 4, 60
EVERY = tuple(oracle.every_completion(len(letters.TOKENS), letters.STOPS, letters.MAX_TOKENS))


def flat(gradients):
    return torch.cat([g.double().flatten() for g in gradients])


def cosine(one, other):
    return float(one @ other / (one.norm() * other.norm()))


@functools.cache
def case(graded=False):
    """A policy whose answers differ in length, and π and ∇ log π of every completion."""
    policy = letters.policy("gpt2", scale=0.35)
    texts = letters.answers("gpt2", ranks=((1, 0), (2, 0), (2, 1)), scale=0.35)
    reward = FunctionReward("tests:marks", marks) if graded else None
    prompts = letters.asked(policy, letters.task(texts, reward=reward)).some([0, 1])
    known = [
        oracle.completion_gradients(policy.model, list(tokens), EVERY) for tokens in prompts.tokens
    ]
    return policy, prompts, known


def marks(prompts, completions, **columns):
    """More than two rewards, which grow with the length."""
    return [len(text) / 2 + ("a" in text) / 4 for text in completions]


def rewards_of(policy, prompts):
    whole = [list(EVERY)] * len(prompts)
    return list(prompts.rewards_of(policy, range(len(prompts)), whole).double())


def expected(method, graded=False, size=SIZE):
    policy, prompts, known = case(graded)
    rs = rewards_of(policy, prompts)
    return oracle.expected_gradient(known, EVERY, rs, method, letters.MAX_TOKENS, size)


@pytest.mark.parametrize("method", oracles.METHODS)
def test_the_oracle_is_the_mean_gradient_of_the_loss_of_every_group(method):
    """106 completions, 11,236 groups of 2 a prompt: by loops over groups, and by Ā(r)."""
    policy, prompts, known = case()
    rs = rewards_of(policy, prompts)
    looped = oracle.expected_batch_gradient(known, EVERY, rs, method, letters.MAX_TOKENS, 2)
    short = expected(method, size=2)
    assert (looped - short).norm() < 1e-12 * looped.norm()


@pytest.mark.parametrize("method", oracles.METHODS)
@pytest.mark.parametrize("row", [0, 1])
def test_the_teacher_forced_update_is_the_mean_gradient_of_all_groups(method, row, monkeypatch):
    """Answers of 2 and 3 tokens among completions of 1 to 3: cosine 1, and the same length.

    Over every wrong completion that may be drawn, weighed by its probability.
    """
    policy, both, known = case()
    prompts, (p, _) = both.some([row]), known[row]
    (r,) = rewards_of(policy, prompts)
    truth = oracle.expected_gradient([known[row]], EVERY, [r], method, letters.MAX_TOKENS, SIZE)
    wrong = [(float(w), c) for w, c, x in zip(p, EVERY, r, strict=True) if x == 0]
    share = sum(w for w, _ in wrong)
    if method not in PER_LENGTH:
        wrong = wrong[:1]
    found = torch.zeros_like(truth)
    for w, completion in wrong:
        drawn = WrongAnswers([[completion]], torch.tensor([share], dtype=torch.float64))
        monkeypatch.setattr(teacher_forced, "wrong_answers", lambda *_, drawn=drawn: drawn)
        formed = teacher_forced.update(policy, prompts, method, SIZE, 1, draws=1)
        found += flat(formed.gradients) * (w / share if method in PER_LENGTH else 1.0)
    assert cosine(found, truth) > 1 - 1e-9
    assert (found - truth).norm() < 1e-9 * truth.norm()


def test_without_the_wrong_answers_lengths_grpo_is_another_direction():
    """What the update was before: ψ ∇V alone, and the paper's Eq. 1 divides by the length."""
    policy, prompts, known = case()
    rs = rewards_of(policy, prompts)
    without = oracle.expected_gradient(known, EVERY, rs, "rloo", letters.MAX_TOKENS, SIZE)
    assert cosine(without, expected("grpo")) < 0.95


def z_scores(values, truth):
    values = torch.stack(values)
    return (values.mean(0) - truth) / (values.std(0) / math.sqrt(len(values)))


@pytest.mark.parametrize("graded", [False, True], ids=["indicator", "graded"])
@pytest.mark.parametrize("method", oracles.METHODS)
def test_the_mean_of_sampled_updates_is_the_mean_gradient_of_all_groups(method, graded):
    """Along the truth and five other directions; half of the truth is told apart."""
    policy, prompts, _ = case(graded)
    truth = expected(method, graded)
    generator = torch.Generator().manual_seed(4)
    rays = torch.randn(5, len(truth), generator=generator, dtype=torch.float64)
    rays = torch.cat((rays / rays.norm(dim=1, keepdim=True), (truth / truth.norm())[None]))
    found, squares = [], []
    for seed in range(DRAWS):
        drawn = rollouts(policy, prompts, 4 * SIZE, seed=seed)
        formed = update(policy, drawn, method, SIZE, 1, letters.MAX_TOKENS)
        found.append(rays @ flat(formed.gradients))
        squares.append(formed.gradient_norm)
    z = z_scores(found, rays @ truth)
    assert z.abs().max() < 4
    assert z_scores(found, rays @ truth / 2)[-1] > 4
    assert sum(map(math.isfinite, squares)) > DRAWS / 2


@pytest.mark.parametrize("method", oracles.METHODS)
def test_mean_advantages_are_those_over_all_groups_of_the_rollouts(method, monkeypatch):
    """Of 6 rollouts all subsets of 3, exactly where groups are counted, else within their noise."""
    monkeypatch.setattr(sampled_update, "SPLITS", 8192)
    for rewards, exact in (([1.0, 0, 0, 1, 0, 0], True), ([0.1, 0.5, 0, 0.9, 0.5, 2.0], False)):
        if method == "ppo":
            continue
        total, count = torch.zeros(6, dtype=torch.float64), 0
        for group in itertools.combinations(range(6), 3):
            (found,) = oracles.group_advantages(method, [[rewards[i] for i in group]])
            count += 1
            for i, advantage in zip(group, found, strict=True):
                total[i] += advantage
        # Each rollout is in half of the groups, and weighs as much in the mean over all.
        wanted = total / count * 6 / 3
        mine = mean_advantages(torch.tensor([rewards], dtype=torch.float64), method, 3)[0]
        if exact or method != "grpo":
            torch.testing.assert_close(mine, wanted, rtol=1e-12, atol=1e-12)
        else:
            assert (mine - wanted).abs().max() < 0.03


def test_batches_of_ppo_are_drawn_evenly(monkeypatch):
    """A prompt's advantages in batches of two, against all pairs of prompts and groups of all."""
    r = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]).double()
    total = torch.zeros_like(r)
    for one in range(3):
        for other in range(3):
            batch = [r[one].tolist(), r[other].tolist()]
            found = torch.tensor(oracles.group_advantages("ppo", batch)).double()
            total[one] += found[0] / 6
            total[other] += found[1] / 6
    monkeypatch.setattr(sampled_update, "SPLITS", 4096)
    mine = mean_advantages(r, "ppo", 4, 2)
    assert (mine - total).abs().max() < 0.05
    assert abs(float((mine * r).mean() - (total * r).mean())) < 0.01


def test_clipping_scales_an_update_as_rl_scales_its_gradient():
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    formed = Update([], [g.clone() for g in gradients], 5.0)
    same = clipped(formed, 5.0)
    assert all(torch.equal(a, b) for a, b in zip(same.gradients, gradients, strict=True))
    short = clipped(formed, 1.0)
    assert length(short.gradients) == pytest.approx(1.0)
    assert short.gradients[1].item() == pytest.approx(0.8)
    assert short.gradient_norm == 5.0


def test_parameters_that_an_output_does_not_read_keep_their_total():
    one, other = (torch.ones(2, requires_grad=True) for _ in range(2))
    totals = [torch.zeros(2), torch.full((2,), 3.0)]
    add_gradients(totals, 2 * one, [one, other], torch.ones(2))
    assert totals[0].tolist() == [2, 2]
    assert totals[1].tolist() == [3, 3]


def test_frozen_parameters_do_not_move(policy):
    chosen = policy("gpt2")
    head = chosen.model.get_input_embeddings().weight
    head.requires_grad_(False)
    try:
        moving = moving_parameters(chosen)
        assert len(moving) == len(list(chosen.model.parameters())) - 1
        assert all(p is not head for p in moving)
    finally:
        head.requires_grad_(True)


def test_a_prompt_that_comes_twice_in_a_batch_has_other_rollouts_there(monkeypatch):
    """Two groups of two of four rollouts are all four of them, whatever the order."""
    monkeypatch.setattr(sampled_update, "SPLITS", 200)
    r = torch.tensor([[0.0, 0.0, 1.0, 3.0]], dtype=torch.float64)
    (wanted,) = oracles.group_advantages("ppo", r.tolist())
    found = mean_advantages(r, "ppo", 2, 2)
    torch.testing.assert_close(found[0], torch.tensor(wanted, dtype=torch.float64))
