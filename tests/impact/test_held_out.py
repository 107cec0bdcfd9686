"""Held-out rewards: in closed form where there is one, from coupled rollouts otherwise."""

import dataclasses

import pytest
import torch
from tests import letters

from valuegrad.errors import UserError
from valuegrad.impact import teacher_forced
from valuegrad.impact.held_out import held_out_rewards
from valuegrad.prompts import tokenise
from valuegrad.rewards.function import FunctionReward
from valuegrad.sampler import rollouts


def exact_task():
    return letters.task(letters.answers("gpt2", ranks=((1, 0),) * 3, scale=0.35))


def test_one_token_answers_are_summed_over_the_vocabulary(policy, task, enumeration):
    _, ps, rs, _ = enumeration("gpt2", "graded")
    expected = torch.stack([p @ r for p, r in zip(ps, rs, strict=True)])
    found = held_out_rewards(policy("gpt2"), task("gpt2", "graded"))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_exact_rewards_are_probabilities_of_answers():
    policy = letters.policy("gpt2", scale=0.35)
    prompts = tokenise(policy, exact_task())
    # The training prompts of this task are others than the ones that are measured.
    task = dataclasses.replace(exact_task(), train=exact_task().train[:1])
    value = teacher_forced.rewards(policy, prompts.evaluation)
    for given in (task, prompts.evaluation):
        torch.testing.assert_close(held_out_rewards(policy, given), value, rtol=1e-12, atol=0)


def test_other_rewards_are_means_of_rollouts():
    policy, task = letters.policy("gpt2", scale=0.35), exact_task()
    right = {e.prompt: e.answer for e in task.evaluation}

    def f(prompts, completions, **_):
        return [float(right[p] == c) for p, c in zip(prompts, completions, strict=True)]

    drawn = dataclasses.replace(task, reward=FunctionReward("tests:f", f))
    found = held_out_rewards(policy, drawn, rollouts=3000, seed=2)
    # One token and a stop: nothing else has the text of the answer.
    value = teacher_forced.rewards(policy, tokenise(policy, task).evaluation)
    error = (value * (1 - value) / 3000).sqrt()
    assert bool(((found - value).abs() < 4 * error).all())
    assert torch.equal(found, held_out_rewards(policy, drawn, rollouts=3000, seed=2))
    prompts = tokenise(policy, drawn).evaluation
    few = rollouts(policy, prompts, 16, seed=0).rewards.mean(1)
    assert torch.equal(held_out_rewards(policy, prompts), few)


def test_answers_that_do_not_fit_are_refused(policy, task):
    broken = dataclasses.replace(task("gpt2"), evaluation=())
    with pytest.raises(UserError, match="task: got no prompts"):
        held_out_rewards(policy("gpt2"), broken)
