"""Attention through the own position: the values of the model's own, and where it is refused."""

import pytest
import torch
from tests.conftest import ARCHITECTURES

from valuegrad.errors import UserError
from valuegrad.model import attention as module
from valuegrad.model.attention import own_position_attention
from valuegrad.model.batches import final_states

SEQUENCES = ([5, 9, 33, 7, 41, 260], [3, 8, 17, 200], [90, 5, 6, 7, 8, 9, 10, 11, 12], [4, 5])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_values_are_left_as_they_are(policy, architecture, dtype):
    chosen = policy(architecture, dtype)
    with torch.no_grad():
        before = final_states(chosen, SEQUENCES)
        with own_position_attention(chosen):
            inside = final_states(chosen, SEQUENCES)
        after = final_states(chosen, SEQUENCES)
    assert torch.equal(before, after)
    assert torch.allclose(before, inside, rtol=0, atol=1e-14 if dtype == "float64" else 2e-6)


def gradients(policy):
    """∂(last final state of all rows)/∂embeddings, by autograd under this attention."""
    ids = torch.tensor([[*row[:2], 7, 8] for row in SEQUENCES])
    embedded = policy.model.get_input_embeddings()(ids).detach().requires_grad_()
    with own_position_attention(policy):
        states = policy.model.base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    weight = torch.linspace(-1, 1, states.shape[2], dtype=states.dtype)
    return torch.autograd.grad((states[:, -1] @ weight).sum(), embedded)[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_other_position_has_a_gradient(policy, architecture):
    found = gradients(policy(architecture))
    assert not found[:, :-1].any()
    assert (found[:, -1].norm(dim=1) > 0).all()


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_scores_a_few_rows_at_a_time_give_the_same(policy, monkeypatch, architecture):
    whole = gradients(policy(architecture))
    monkeypatch.setattr(module, "SCORE_ELEMENTS", 1)
    torch.testing.assert_close(gradients(policy(architecture)), whole, rtol=1e-12, atol=1e-14)


def test_a_failure_inside_gives_the_attention_back(policy):
    chosen = policy("gpt2")
    before = chosen.model.config._attn_implementation
    with pytest.raises(KeyboardInterrupt), own_position_attention(chosen):
        raise KeyboardInterrupt
    assert chosen.model.config._attn_implementation == before


def test_a_model_with_an_attention_of_its_own_is_refused(policy, monkeypatch):
    chosen = policy("gpt2")
    real = type(chosen.model).set_attn_implementation

    def refuse(self, name):
        if name == module.NAME:
            raise ValueError("not supported")
        return real(self, name)

    monkeypatch.setattr(type(chosen.model), "set_attn_implementation", refuse)
    message = r"a GPT2LMHeadModel with an attention of its own.*ask for total costates only"
    with pytest.raises(UserError, match=message), own_position_attention(chosen):
        pass
