"""The value gradient by independent routes."""

import pytest
import torch
from tests import oracles
from tests.conftest import ARCHITECTURES, REWARDS, SITES
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from valuegrad.credit.value_gradient import (
    final_value_gradient,
    indicator_value_gradient,
    site_jacobian,
    value_gradient,
)
from valuegrad.errors import UserError
from valuegrad.model import batches as batches_module
from valuegrad.prompts import tokenise
from valuegrad.rewards.example import Example
from valuegrad.tasks.task import Task


def relative_error(found, expected):
    return (torch.linalg.norm(found - expected) / torch.linalg.norm(expected)).item()


def forward_mode(model, ids, rewards, site):
    """∂V/∂h by forward-mode differentiation, one coordinate at a time."""
    slopes = []
    for unit in torch.eye(oracles.width(model), dtype=torch.float64):
        with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
            shift = forward_ad.make_dual(torch.zeros_like(unit), unit)
            slopes.append(
                forward_ad.unpack_dual(oracles.value(model, ids, rewards, site, shift)).tangent
            )
    return torch.stack(slopes).detach()


@pytest.mark.parametrize("reward", ["exact", "graded"])
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_closed_form_equals_the_backward_pass(
    policy, task, enumeration, architecture, site, reward
):
    ids, _, rs, _ = enumeration(architecture, reward)
    model = policy(architecture).model
    found = value_gradient(policy(architecture), task(architecture, reward), site)
    assert not found.requires_grad
    for row, (prompt, r) in enumerate(zip(ids, rs, strict=True)):
        expected = oracles.value_gradient_autograd(model, prompt, r, site)
        assert relative_error(found[row], expected) < 1e-9
    single = value_gradient(policy(architecture, "float32"), task(architecture, reward), site)
    assert single.dtype == torch.float32
    for row in range(len(ids)):
        assert relative_error(single[row].double(), found[row]) < 1e-4


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_forward_mode_and_central_differences_agree(policy, task, enumeration, architecture, site):
    ids, _, rs, _ = enumeration(architecture, "graded")
    model = policy(architecture).model
    found = value_gradient(policy(architecture), task(architecture, "graded"), site)
    # The second prompt has one token, so that nothing precedes the perturbed position.
    tangent = forward_mode(model, ids[1], rs[1], site)
    assert relative_error(found[1], tangent) < 1e-9
    differences = oracles.value_gradient_differences(model, ids[0], rs[0], site)
    assert relative_error(found[0], differences) < 1e-7


@pytest.mark.parametrize("site", [0, "final"])
def test_batches_and_the_order_of_prompts_do_not_matter(policy, task, monkeypatch, site):
    chosen = policy("gpt2")
    prompts = tokenise(chosen, task("gpt2", "graded")).evaluation
    whole = value_gradient(chosen, prompts, site)
    order = [3, 0, 1, 4, 2]
    monkeypatch.setattr(batches_module, "BATCH_TOKENS", 4)
    monkeypatch.setattr(batches_module, "HEAD_ELEMENTS", 1)
    pieces = value_gradient(chosen, prompts.some(order), site)
    torch.testing.assert_close(pieces, whole[order], rtol=1e-10, atol=1e-14)


def test_an_answer_s_own_formula_is_the_sum_over_the_vocabulary():
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    p = torch.rand(3, 7, generator=generator, dtype=torch.float64).softmax(1)
    answers = torch.tensor([2, 0, 6])
    rewards = torch.eye(7, dtype=torch.float64)[answers]
    found = indicator_value_gradient(head, p, answers, p @ head)
    expected = final_value_gradient(head, p, rewards)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_the_jacobian_carries_gradients_down(policy, task):
    chosen = policy("olmo2")
    prompts = tokenise(chosen, task("olmo2", "graded")).evaluation
    lower, final = (value_gradient(chosen, prompts, site)[1] for site in (0, "final"))
    jacobian = site_jacobian(chosen, [prompts.tokens[1]], 0)[0]
    torch.testing.assert_close(jacobian.mT @ final, lower, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    ("answers", "reward", "got"),
    [
        (("a", "bz"), "exact", "answers of several tokens"),
        (("a", "bz"), "graded", "completions of any length"),
    ],
)
def test_refuses_answers_that_are_not_one_token(policy, answers, reward, got):
    examples = tuple(Example("x = ", answer, {"bonus": 1.0}) for answer in answers)
    task = Task("t", examples[:1], examples[1:], REWARDS[reward], max_tokens=4)
    with pytest.raises(UserError, match=rf"task: got {got}; wanted answers of one token"):
        value_gradient(policy("gpt2"), task)


@pytest.mark.parametrize("site", [2, -1, "norm"])
def test_refuses_an_unknown_site(policy, task, site):
    with pytest.raises(UserError, match=r"site: got .*; wanted one of embedding, 0, 1, final"):
        value_gradient(policy("gpt2"), task("gpt2"), site)
