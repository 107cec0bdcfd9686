"""The value gradient by independent routes, and the arithmetic that it rests on."""

import copy

import pytest
import torch
import transformers
from tests import oracles
from tests.conftest import ARCHITECTURES, SITES
from torch import nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from valuegrad.credit.value_gradient import prompt_states, value_gradient
from valuegrad.errors import UserError
from valuegrad.model.policy import final_states, logits
from valuegrad.model.precision import use_true_float64
from valuegrad.one_token_prompts import one_token_prompts


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


@pytest.mark.parametrize("architecture", ["olmo2", "llama", "qwen3"])
def test_float64_of_transformers_alone_is_not_enough(
    policy, checkpoint, task, enumeration, architecture
):
    """Their RMSNorm rounds to float32: differences of such a model miss by far more than ours."""
    plain = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint(architecture), dtype=torch.float64
    ).eval()
    ids, _, rs, _ = enumeration(architecture, "graded")
    found = value_gradient(policy(architecture), task(architecture, "graded"), 0)
    true, rounded = (
        relative_error(oracles.value_gradient_differences(model, ids[0], rs[0], 0), found[0])
        for model in (policy(architecture).model, plain)
    )
    assert true < 1e-7
    assert rounded > 1e-5


class Narrowing(nn.Module):
    """Asks for float32 in each of the ways that transformers does."""

    def forward(self, x):
        return (
            x.float(),
            x.to(torch.float32),
            x.softmax(-1, dtype=torch.float32),
            torch.zeros(2, dtype=torch.float32),
        )


def test_every_request_for_float32_gets_float64_inside_the_model_alone():
    model = Narrowing()
    use_true_float64(model)
    x = torch.full((2,), 1 / 3, dtype=torch.float64)
    for module in (model, copy.deepcopy(model)):
        answers = module(x)
        assert {answer.dtype for answer in answers} == {torch.float64}
        assert torch.equal(answers[0], x)
    with pytest.raises(TypeError):
        model(None, None)
    assert x.float().dtype == torch.float32


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float64_reaches_every_way_into_the_model(policy, enumeration, architecture):
    """The final state and the head alone give the digits of the whole model."""
    ids, ps, _, _ = enumeration(architecture)
    reference = policy(architecture)
    for prompt, p in zip(ids, ps, strict=True):
        states = final_states(reference, [prompt])
        torch.testing.assert_close(
            logits(reference, states)[0].softmax(0), p, rtol=1e-12, atol=1e-15
        )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float32_is_left_to_transformers_bit_for_bit(policy, checkpoint, enumeration, architecture):
    plain = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint(architecture), dtype=torch.float32
    ).eval()
    ids, _, _, _ = enumeration(architecture)
    for prompt in ids:
        tokens = torch.tensor([prompt])
        with torch.no_grad():
            expected = plain(tokens, use_cache=False).logits
            assert torch.equal(policy(architecture, "float32").model(tokens).logits, expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_and_batches_change_no_state(policy, task, architecture):
    chosen = task(architecture)
    prompts = one_token_prompts(policy(architecture), chosen.evaluation, chosen.reward)
    together = prompt_states(policy(architecture), prompts)
    for row, tokens in enumerate(prompts.tokens):
        alone = final_states(policy(architecture), [tokens])[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-12, atol=1e-12)
    assert not together.requires_grad


@pytest.mark.parametrize("site", [2, -1, "norm"])
def test_refuses_an_unknown_site(policy, task, site):
    with pytest.raises(UserError, match=r"site: got .*; wanted one of embedding, 0, 1, final"):
        value_gradient(policy("gpt2"), task("gpt2"), site)
