"""Checkpoints as policies: what is read off the model, and which ones are refused."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
import transformers
from tests import letters, oracles
from tests.conftest import ARCHITECTURES

from valuegrad.credit.costates import costates
from valuegrad.errors import UserError
from valuegrad.model.batches import final_states
from valuegrad.model.loading import load_policy
from valuegrad.model.policy import Policy, check_full_precision, logits

SMALL = {
    "vocab_size": len(letters.TOKENS),
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 48,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def saved(folder, config):
    """A random checkpoint over six letters."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.6)
    model.save_pretrained(folder)
    letters.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_blocks_sites_and_head_are_the_models(policy, architecture):
    chosen = policy(architecture)
    blocks, _ = oracles.blocks_and_norm(chosen.model)
    assert chosen.blocks is blocks
    assert chosen.sites == ("embedding", 0, 1, "final")
    assert not chosen.head.requires_grad
    assert torch.equal(chosen.head, chosen.model.get_output_embeddings().weight)
    assert chosen.head_bias is None
    assert (chosen.context, chosen.stop_tokens) == (48, (0,))
    assert not chosen.model.training
    ids = torch.tensor([[5, 9, 33]])
    with torch.no_grad():
        expected = chosen.model(ids, use_cache=False).logits[0, -1]
        found = logits(chosen, final_states(chosen, [[5, 9, 33]]))[0]
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_a_head_with_a_bias_is_read_with_it(tmp_path):
    """Logits W h + b, in costates at "final" too: Â (W_o − p W), p with the bias in it."""
    config = transformers.PhiConfig(**SMALL)
    policy = load_policy(saved(tmp_path / "step1", config), dtype="float64")
    assert policy.head_bias.norm() > 0
    p = oracles.distribution(policy.model, [2, 3, 4])
    states = final_states(policy, [[2, 3, 4]])
    torch.testing.assert_close(logits(policy, states)[0].softmax(0), p, rtol=1e-11, atol=0)
    plain = (states @ policy.head.mT)[0].softmax(0)
    assert (plain - p).abs().max() > 0.01
    found = costates(policy, [[2, 3, 4, 5]], 3, [2.0], "final")
    onehot = torch.zeros(len(p), dtype=torch.float64)
    onehot[5] = 1
    expected = 2.0 * (onehot - p) @ policy.head
    torch.testing.assert_close(found.total[0, 0], expected, rtol=1e-9, atol=1e-12)


def test_stop_tokens_are_the_generation_settings_and_the_tokenizers():
    assert letters.policy("llama").stop_tokens == (0,)
    several = letters.policy("llama", generation=(("eos_token_id", (2, 0, 3)),))
    assert several.stop_tokens == (2, 0, 3)
    one = letters.policy("llama", generation=(("eos_token_id", 4),))
    assert one.stop_tokens == (4, 0)


def test_without_a_position_table_any_length_goes(policy):
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace())
    endless = dataclasses.replace(policy("gpt2"), model=SimpleNamespace(config=config))
    assert endless.context == 2**31


def test_half_precision_cannot_take_steps(policy):
    for dtype in ("float32", "float64"):
        check_full_precision(policy("gpt2", dtype))
    with pytest.raises(UserError, match=r"dtype: got bfloat16; wanted float32 or float64 to take"):
        check_full_precision(policy("gpt2", "bfloat16"))


def test_blocks_in_no_list_are_refused(policy):
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(num_hidden_layers=2))
    odd = SimpleNamespace(config=config, base_model=torch.nn.Linear(1, 1))
    with pytest.raises(UserError, match=r"SimpleNamespace whose 2 blocks are in no module list"):
        _ = Policy(odd, None, policy("gpt2").checkpoint).blocks
