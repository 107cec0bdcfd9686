"""Random models for the benchmarks, which measure what work costs and not what it finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Olmo2Config, Olmo2ForCausalLM, PreTrainedTokenizerFast

from valuegrad.demo.text import byte_level_bpe, standard_library
from valuegrad.model.loading import load_policy
from valuegrad.model.policy import Policy


def random_policy(folder: Path, **shape: Any) -> Policy:
    """A random OLMo-2 with a real tokenizer, saved and loaded as any checkpoint is.

    Args:
        folder: where it is saved.
        shape: of its configuration; by default about 100M parameters and 50,304 tokens.

    Returns:
        The policy.
    """
    torch.manual_seed(0)
    default = {
        "vocab_size": 50_304,
        "hidden_size": 640,
        "intermediate_size": 1728,
        "num_hidden_layers": 10,
        "num_attention_heads": 10,
        "max_position_embeddings": 512,
    }
    chosen = default | shape
    config = Olmo2Config(
        **chosen,
        num_key_value_heads=chosen["num_attention_heads"],
        pad_token_id=0,
        eos_token_id=0,
        bos_token_id=None,
    )
    model = Olmo2ForCausalLM(config)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.0f}M parameters")
    model.save_pretrained(folder)
    tokenizer = byte_level_bpe(standard_library()[:100], 1024)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return load_policy(str(folder))
