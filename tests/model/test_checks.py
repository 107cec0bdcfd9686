"""What the closed forms assume of a model is tried on it, in every dtype."""

import pytest
import torch
import transformers
from tests import letters

from valuegrad.errors import UserError
from valuegrad.model.loading import load_policy

DTYPES = ("float32", "float64", "bfloat16", "float16")
CAPPED = {
    "a soft cap": transformers.Gemma2Config(
        head_dim=8, final_logit_softcapping=30.0, attn_logit_softcapping=None, **letters.GROUPED
    ),
    "divided logits": transformers.GraniteConfig(logits_scaling=1.1, **letters.GROUPED),
    "scaled logits": transformers.CohereConfig(logit_scale=0.9, **letters.GROUPED),
}
LOOKING_BOTH_WAYS = {
    "BERT without is_decoder": transformers.BertConfig(**letters.SHAPE),
    "RoFormer without is_decoder": transformers.RoFormerConfig(**letters.SHAPE),
    "XLM": transformers.XLMConfig(
        vocab_size=len(letters.TOKENS),
        emb_dim=16,
        n_layers=2,
        n_heads=2,
        max_position_embeddings=48,
    ),
}


@pytest.fixture
def saved(tmp_path):
    """Write a random checkpoint of a configuration and return its folder."""

    def save(config, std):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=std)
        model.save_pretrained(tmp_path / "made")
        letters.tokenizer().save_pretrained(tmp_path / "made")
        return str(tmp_path / "made")

    return save


@pytest.mark.parametrize("std", [0.02, 0.6], ids=["as initialised", "large logits"])
@pytest.mark.parametrize("name", CAPPED)
def test_capped_and_scaled_heads_are_refused_in_every_dtype(saved, name, std):
    folder = saved(CAPPED[name], std)
    for dtype in DTYPES:
        with pytest.raises(UserError, match=r"logits are not its output head's"):
            load_policy(folder, dtype=dtype)


@pytest.mark.parametrize("name", LOOKING_BOTH_WAYS)
def test_models_that_look_at_later_tokens_are_refused_in_every_dtype(saved, name):
    folder = saved(LOOKING_BOTH_WAYS[name], 0.3)
    for dtype in DTYPES:
        with pytest.raises(UserError, match=r"states depend on later tokens.*a causal model"):
            load_policy(folder, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "config",
    [
        transformers.MixtralConfig(num_local_experts=4, num_experts_per_tok=2, **letters.GROUPED),
        transformers.PhiConfig(**letters.SHAPE, num_key_value_heads=2),
        transformers.OPTConfig(
            vocab_size=len(letters.TOKENS),
            hidden_size=16,
            ffn_dim=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=48,
            word_embed_proj_dim=8,
        ),
    ],
    ids=["experts", "a head with a bias", "a head narrower than the states"],
)
def test_causal_models_with_a_plain_head_are_taken_in_every_dtype(saved, config, dtype):
    assert load_policy(saved(config, 0.3), dtype=dtype).head.dtype == getattr(torch, dtype)


def test_states_that_overflow_are_told(saved):
    folder = saved(transformers.LlamaConfig(**letters.GROUPED), 60.0)
    load_policy(folder)
    with pytest.raises(UserError, match=r"states that are not finite in float16.*use float32"):
        load_policy(folder, dtype="float16")
