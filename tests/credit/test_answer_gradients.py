"""Teacher-forced values and gradients against every completion written out."""

import dataclasses

import pytest
import torch
from tests import letters
from tests.conftest import ARCHITECTURES, SITES
from tests.oracles import completions as oracle

from valuegrad.credit import answer_gradients as module
from valuegrad.credit.answer_gradients import answer_gradients, answer_values
from valuegrad.errors import UserError
from valuegrad.model import batches as batches_module
from valuegrad.rewards.function import FunctionReward

RTOL = {"float64": 1e-8, "float32": 1e-4}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_values_and_gradients_at_every_state(architecture):
    model = letters.policy(architecture).model
    prompts = letters.asked_for_answers(architecture)
    found = {
        (dtype, site): answer_gradients(letters.policy(architecture, dtype), prompts, site)
        for dtype in RTOL
        for site in SITES
    }
    for row, (ids, answer) in enumerate(zip(prompts.tokens, prompts.answers, strict=True)):
        for t in range(1, len(answer) + 2):
            value, gradients = oracle.value_gradients(
                model, list(ids), answer, letters.STOPS, SITES, t
            )
            for (dtype, site), mine in found.items():
                assert float(mine.value[row, t - 1]) == pytest.approx(value, rel=RTOL[dtype])
                error = (mine.gradient[row, t - 1].double() - gradients[site]).norm()
                assert error <= RTOL[dtype] * gradients[site].norm(), (dtype, site, row, t)
        for mine in found.values():
            assert mine.mask[row].tolist() == [t <= len(answer) for t in range(3)]
            assert not mine.value[row, len(answer) + 1 :].any()
            assert not mine.gradient[row, len(answer) + 1 :].any()


@pytest.mark.parametrize("site", SITES)
def test_gradients_equal_central_differences_and_the_sum_over_completions(site):
    prompts = letters.asked_for_answers("olmo2")
    found = answer_gradients(letters.policy("olmo2"), prompts, site).gradient
    ps, rs, scores, _ = letters.enumeration("olmo2")
    for row, (p, r, s) in enumerate(zip(ps, rs, scores[site], strict=True)):
        assert torch.allclose(found[row, 0], (p * r) @ s, rtol=1e-9, atol=1e-14)
    model, ids, answer = letters.policy("olmo2").model, prompts.tokens[1], prompts.answers[1]
    direction = torch.randn(16, generator=torch.Generator().manual_seed(2)).double()
    for t in (1, 2, 3):
        slope = oracle.value_slope_differences(
            model, list(ids), answer, letters.STOPS, site, t, direction
        )
        size = float(found[1, t - 1].norm() * direction.norm())
        assert float(found[1, t - 1] @ direction) == pytest.approx(slope, abs=1e-7 * size)


@pytest.mark.parametrize(
    ("place", "constant"),
    [(batches_module, ("BATCH_TOKENS", 4)), (module, ("HEAD_ELEMENTS", 10))],
    ids=["tokens", "head"],
)
@pytest.mark.parametrize("site", [0, "final"])
def test_batches_and_the_order_of_prompts_do_not_matter(monkeypatch, site, place, constant):
    policy, prompts = letters.policy("gpt2"), letters.asked_for_answers("gpt2")
    whole, values = answer_gradients(policy, prompts, site), answer_values(policy, prompts)
    order = [2, 0, 1]
    monkeypatch.setattr(place, *constant)
    assert len(list(module.scored_answers(policy, prompts))) > 1
    pieces = answer_gradients(policy, prompts.some(order), site)
    for name in ("value", "gradient", "final", "mask"):
        found, expected = getattr(pieces, name), getattr(whole, name)[order]
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
    again = answer_values(policy, prompts.some(order))
    torch.testing.assert_close(again, values[order], rtol=1e-12, atol=0)
    torch.testing.assert_close(whole.value[:, 0], values, rtol=1e-12, atol=0)


def test_stop_tokens_share_the_value():
    policy, prompts = letters.policy("llama"), letters.asked_for_answers("llama")
    both = answer_values(policy, prompts)
    each = [
        answer_values(policy, dataclasses.replace(prompts, stops=(stop,))) for stop in letters.STOPS
    ]
    torch.testing.assert_close(sum(each), both, rtol=1e-12, atol=0)
    turned = answer_values(policy, dataclasses.replace(prompts, stops=letters.STOPS[::-1]))
    torch.testing.assert_close(turned, both, rtol=1e-14, atol=0)


def test_a_reward_of_texts_and_an_unknown_site_are_refused():
    policy, prompts = letters.policy("llama"), letters.asked_for_answers("llama")
    graded = FunctionReward("tests:f", lambda completions, **_: [0.5] * len(completions))
    for call in (answer_values, answer_gradients):
        with pytest.raises(UserError, match="reward: got tests:f; wanted exact"):
            call(policy, dataclasses.replace(prompts, reward=graded))
    with pytest.raises(UserError, match="site: got 2"):
        answer_gradients(policy, prompts, 2)
