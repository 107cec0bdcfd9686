"""True float64: every request for float32 gets it inside the model, and nothing else changes."""

import copy

import pytest
import torch
import transformers
from tests import oracles
from tests.conftest import ARCHITECTURES
from torch import nn

from valuegrad.credit.value_gradient import value_gradient
from valuegrad.model.batches import final_states
from valuegrad.model.policy import logits
from valuegrad.model.precision import use_true_float64


def relative_error(found, expected):
    return (torch.linalg.norm(found - expected) / torch.linalg.norm(expected)).item()


def plain(checkpoint, architecture, dtype):
    """The model as transformers alone loads it."""
    load = transformers.AutoModelForCausalLM.from_pretrained
    return load(checkpoint(architecture), dtype=dtype).eval()


@pytest.mark.parametrize("architecture", ["olmo2", "llama", "qwen3"])
def test_float64_of_transformers_alone_is_not_enough(
    policy, checkpoint, task, enumeration, architecture
):
    """Their RMSNorm rounds to float32: differences of such a model miss by far more than ours."""
    rounding = plain(checkpoint, architecture, torch.float64)
    ids, _, rs, _ = enumeration(architecture, "graded")
    found = value_gradient(policy(architecture), task(architecture, "graded"), 0)
    true, rounded = (
        relative_error(oracles.value_gradient_differences(model, ids[0], rs[0], 0), found[0])
        for model in (policy(architecture).model, rounding)
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
    # A forward pass that fails leaves nothing behind.
    with pytest.raises(TypeError):
        model(None, None)
    assert x.float().dtype == torch.float32


@pytest.mark.parametrize("architecture", ["olmo2", "gpt2"])
def test_copies_of_a_policys_model_stay_in_float64(policy, architecture):
    model = policy(architecture).model
    ids = torch.tensor([[5, 9, 33]])
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
        other = copy.deepcopy(model)
        assert torch.equal(other(ids, use_cache=False).logits, expected)
        states = model.base_model(ids, use_cache=False).last_hidden_state
        again = other.base_model(ids, use_cache=False).last_hidden_state
        assert torch.equal(again, states)


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
    model = plain(checkpoint, architecture, torch.float32)
    ids, _, _, _ = enumeration(architecture)
    for prompt in ids:
        tokens = torch.tensor([prompt])
        with torch.no_grad():
            expected = model(tokens, use_cache=False).logits
            assert torch.equal(policy(architecture, "float32").model(tokens).logits, expected)
