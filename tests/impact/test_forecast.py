"""The forecast against Adam itself, against RL, and the second moment of rare success."""

import dataclasses
import math

import pytest
import torch
from tests import letters

from valuegrad.budget import Budget
from valuegrad.errors import UserError
from valuegrad.impact import forecast as module
from valuegrad.impact import vocabulary
from valuegrad.impact.forecast import forecast
from valuegrad.impact.update import moving_parameters
from valuegrad.model.batches import final_states
from valuegrad.model.policy import logits
from valuegrad.prompts import tokenise
from valuegrad.training.one_token import train_one_token

BUDGET = Budget(learning_rate=2e-3, updates=(2, 5, 9), prompts_per_update=3, group_size=4, seeds=1)


def flat(tensors):
    return torch.cat([x.double().flatten() for x in tensors])


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_formed_anew_at_every_update_it_is_adam_on_the_expected_gradient(
    policy, task, monkeypatch, method
):
    """Without noise, by torch's own Adam, gradients scaled down to the budget's length."""
    chosen, budget = task("gpt2"), dataclasses.replace(BUDGET, method=method)
    start = policy("gpt2")
    monkeypatch.setattr(module, "MOVE", 1e-12)
    count = len(chosen.train)
    found = forecast(start, chosen, budget=budget, batches=0, prompts=count)
    assert found.gradients == 9
    prompts = tokenise(start, chosen)
    parameters = moving_parameters(start)
    saved = [p.data for p in parameters]
    try:
        for p in parameters:
            p.data = p.data.clone()
        adam = torch.optim.Adam(parameters, lr=budget.learning_rate)
        for step in range(9):
            formed = vocabulary.update(start, prompts.train, method, 4, 3)
            for p, g in zip(parameters, formed.gradients, strict=True):
                p.grad = -g
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
            if norm > budget.max_gradient_norm:
                for p in parameters:
                    p.grad *= budget.max_gradient_norm / norm
            adam.step()
            if step + 1 in budget.updates:
                expected = vocabulary.rewards(start, prompts.evaluation)
                row = found.rows[found.updates.index(step + 1)]
                torch.testing.assert_close(row, expected, rtol=1e-7, atol=1e-12)
    finally:
        for p, old in zip(parameters, saved, strict=True):
            p.data, p.grad = old, None


def test_it_is_near_what_rl_brings(policy, task):
    """12 runs of GRPO from a random model, whose reward rises by 0.33: within 30% of that.

    What is missing is the walk that noise adds to the mean path, large where updates are.
    """
    start, chosen = policy("llama", "float32"), task("llama")
    chosen = dataclasses.replace(chosen, train=chosen.evaluation)
    budget = Budget(learning_rate=5e-4, updates=(20, 40), prompts_per_update=5, group_size=32)
    found = forecast(start, chosen, budget=budget, batches=8, prompts=len(chosen.train))
    prompts = tokenise(start, chosen)
    runs = torch.tensor(
        [train_one_token(start, prompts, budget=budget, seed=s).gains for s in range(12)]
    ).double()
    for k, updates in enumerate(budget.updates):
        gain, truth = float(found.gain[found.updates.index(updates)]), float(runs[:, k].mean())
        assert truth > 10 * float(runs[:, k].std()) / math.sqrt(12)
        assert 0.7 * truth < gain < 1.3 * truth


def ranked(rank):
    """One-token prompts whose answers have a rank among the letters, the likeliest first."""
    start = letters.policy("qwen3", scale=0.4)
    texts = ("ab", "cadbd", "b\na", "dd", "c")
    ids = [tuple(letters.ids(text)) for text in texts]
    order = logits(start, final_states(start, ids))[:, 2:].argsort(1, descending=True) + 2
    answers = [letters.TOKENS[int(row[rank])] for row in order]
    return start, letters.task(answers, texts, max_tokens=1, stop=None)


@pytest.mark.parametrize("rank", [0, 2], ids=["often", "rarely"])
def test_the_second_moment_of_batches_with_a_spread_weighs_by_their_chance(rank, monkeypatch):
    """f E[g²|spread] = E[g²] over plain batches, along random directions, by a z-test."""
    start, chosen = ranked(rank)
    prompts = tokenise(start, chosen).train
    parameters = moving_parameters(start)
    generator = torch.Generator().manual_seed(1)
    rays = torch.randn(3, sum(p.numel() for p in parameters), generator=generator).double()
    budget = dataclasses.replace(BUDGET, method="dr_grpo", group_size=3)

    def moments(count):
        found, chance = [], 0.0
        for _ in range(count):
            equal = module._equal_chance(start, prompts, budget)
            g, chance = module._batch_gradient(start, prompts, budget, parameters, equal, generator)
            found.append(chance * (rays @ flat(g)).square())
        return torch.stack(found), chance

    conditional, chance = moments(300)
    monkeypatch.setattr(module, "GROUP_METHODS", ())
    plain, certain = moments(1200)
    assert (chance > 0.9) == (rank == 0)
    assert certain == 1.0
    error = (conditional.var(0) / len(conditional) + plain.var(0) / len(plain)).sqrt()
    assert ((conditional.mean(0) - plain.mean(0)) / error).abs().max() < 4
    assert (plain.mean(0) > 4 * error).all()


def test_a_success_that_batches_seldom_show_brings_little():
    """Without the noise of real batches Adam takes a full step on a signal that RL seldom sees."""
    start, chosen = ranked(3)
    budget = dataclasses.replace(BUDGET, prompts_per_update=1, group_size=2)
    seen, blind = (
        float(forecast(start, chosen, budget=budget, batches=n, prompts=5).gain[-1]) for n in (4, 0)
    )
    assert blind > 3 * abs(seen)


def test_the_policy_is_as_it_was_also_when_it_fails(policy, task, monkeypatch):
    start = policy("gpt2")
    before = {name: p.clone() for name, p in start.model.state_dict().items()}
    forecast(start, task("gpt2"), budget=BUDGET)
    monkeypatch.setattr(module._Adam, "step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        forecast(start, task("gpt2"), budget=BUDGET)
    assert all(torch.equal(p, before[name]) for name, p in start.model.state_dict().items())


def test_what_it_cannot_replay_is_refused(policy, task):
    start, chosen = policy("gpt2"), task("gpt2")
    for change, message in (
        ({"inner_epochs": 2}, "inner_epochs: got 2; wanted 1, which the replay knows"),
        ({"beta": 0.1}, "beta: got 0.1; wanted 0"),
    ):
        with pytest.raises(UserError, match=message):
            forecast(start, chosen, budget=dataclasses.replace(BUDGET, **change))
    with pytest.raises(UserError, match="batches: got -1"):
        forecast(start, chosen, batches=-1)
    longer = letters.task(letters.answers("llama"))
    with pytest.raises(UserError, match="task: got answers of several tokens; wanted answers of"):
        forecast(letters.policy("llama"), longer)
