"""Weights that do not fill the model exactly, or are not finite: refused by name, with the fix."""

import math
import re
import shutil

import pytest
import torch
import transformers
from tests import letters
from tests.model.copies import with_settings, with_tensors

from valuegrad.cli.app import run
from valuegrad.errors import UserError
from valuegrad.model.loading import load_policy

HEAD = {"gpt2": "transformer.wte.weight", "qwen3": "model.embed_tokens.weight"}


def renamed(pattern, new):
    return lambda held: {re.sub(pattern, new, name): x for name, x in held.items()}


def without(pattern):
    return lambda held: {name: x for name, x in held.items() if not re.search(pattern, name)}


def beside(name, tensor):
    return lambda held: {**held, name: tensor}


CHANGES = {
    "FSDP": (renamed("^", "_fsdp_wrapped_module."), "'_fsdp_wrapped_module.'.*parallel wrapper"),
    "compiled blocks": (renamed(r"(layers\.\d)", r"\1._orig_mod"), "'_orig_mod.'.*torch.compile"),
    "no head": (without("lm_head"), "no tensor for lm_head.weight;.*not its body"),
    "no last layer": (without(r"layers\.1"), "asks for 2 layers and the files lack layer 1"),
    "no norm": (without(r"model\.norm"), "no tensor for model.norm.weight;.*belong together"),
    "LoRA": (
        lambda held: (
            renamed(r"(q_proj)", r"\1.base_layer")(held)
            | {"model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.zeros(2, 16)}
        ),
        "merge_and_unload",
    ),
    "a value head": (beside("v_head.summary.weight", torch.zeros(1, 16)), "values or classes"),
    "a reward model": (
        lambda held: without("lm_head")(held) | {"score.weight": torch.zeros(1, 16)},
        "values or classes",
    ),
    "another layer": (
        lambda held: held | renamed(r"layers\.1", "layers.2")(held),
        "asks for 2 layers and the files have more, of layer 2",
    ),
    "a wrong shape": (
        lambda held: held | {"model.norm.weight": torch.ones(8)},
        r"a wrong shape of model.norm.weight \(8 for 16\)",
    ),
    "integers": (
        lambda held: held | {"model.layers.0.mlp.up_proj.weight": torch.ones(24, 16).char()},
        "of dtype I8.*dequantise",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_weights_that_do_not_fit_are_refused_with_the_likely_reason(name, checkpoint, tmp_path):
    change, message = CHANGES[name]
    folder = with_tensors(checkpoint("llama"), tmp_path / "copy", change)
    with pytest.raises(UserError, match=f"{re.escape(folder)}: got weights.*{message}"):
        load_policy(folder)


COMMANDS = {
    "trace": ["--prompt", "label", "--completion", " ="],
    "verify": [],
    "bound": ["--task", "arithmetic", "--prompts", "2", "--train-prompts", "2", "--digits", "1"],
    "score": ["--task", "arithmetic", "--prompts", "2", "--train-prompts", "2", "--digits", "1"],
    "train": ["--task", "arithmetic", "--prompts", "2", "--train-prompts", "2", "--digits", "1"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_them_with_one_message(command, checkpoint, tmp_path, capsys):
    folder = with_tensors(checkpoint("olmo2"), tmp_path / "copy", renamed("^", "module."))
    capsys.readouterr()
    assert run([command, folder, *COMMANDS[command]]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    message = [line for line in said.err.splitlines() if "valuegrad:" in line]
    assert len(message) == 1
    assert "'module.'" in message[0]


def test_a_study_refuses_them_too(checkpoint, tmp_path, capsys):
    folder = with_tensors(checkpoint("olmo2"), tmp_path / "copy", renamed("^", "module."))
    config = tmp_path / "study.toml"
    config.write_text(
        f"checkpoints = [{folder!r}]\n[task]\nname = 'arithmetic'\ndigits = 1\nprompts = 2\n"
        "train_prompts = 2\n"
    )
    assert run(["study", str(config), "--out", str(tmp_path / "out")]) == 2
    assert "'module.'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("architecture", HEAD)
def test_a_tied_head_needs_one_tensor_under_either_name(architecture, checkpoint, tmp_path, policy):
    expected = policy(architecture, "float32").head
    other = with_tensors(
        checkpoint(architecture), tmp_path / "a", renamed(HEAD[architecture], "lm_head.weight")
    )
    assert torch.equal(load_policy(other).head, expected)
    with pytest.raises(UserError, match="no tensor for"):
        load_policy(
            with_tensors(checkpoint(architecture), tmp_path / "b", without(HEAD[architecture]))
        )


def test_a_head_beside_a_tied_embedding_has_to_be_the_same(checkpoint, tmp_path, policy):
    twin = load_policy(
        with_tensors(
            checkpoint("qwen3"),
            tmp_path / "a",
            lambda held: held | {"lm_head.weight": held[HEAD["qwen3"]].clone()},
        )
    )
    assert torch.equal(twin.head, policy("qwen3", "float32").head)
    other = beside("lm_head.weight", torch.randn(285, 16))
    folder = with_tensors(checkpoint("qwen3"), tmp_path / "b", other)
    with pytest.raises(UserError, match=r"differs from the embedding.*tie_word_embeddings to fal"):
        load_policy(folder)


@pytest.mark.parametrize(
    ("architecture", "name", "tensor"),
    [
        ("gpt2", "h.0.attn.bias", torch.ones(1, 1, 48, 48).tril()),
        ("gpt2", "h.1.attn.masked_bias", torch.tensor(-1e4)),
        ("gpt_neox", "gpt_neox.layers.0.attention.bias", torch.ones(1, 1, 48, 48).bool().tril()),
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(4)),
    ],
)
def test_buffers_that_old_versions_saved_change_nothing(
    architecture, name, tensor, checkpoint, tmp_path, policy
):
    folder = with_tensors(checkpoint(architecture), tmp_path / "copy", beside(name, tensor))
    assert torch.equal(load_policy(folder).head, policy(architecture, "float32").head)


def test_a_bias_of_attention_is_no_mask(checkpoint, tmp_path):
    folder = with_tensors(
        checkpoint("gpt2"), tmp_path / "copy", beside("h.0.attn.bias", torch.zeros(48))
    )
    with pytest.raises(UserError, match=r"no use for h\.0\.attn\.bias"):
        load_policy(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value, checkpoint, tmp_path):
    def spoil(held):
        held["model.layers.1.mlp.up_proj.weight"][3, 2] = value
        return held

    folder = with_tensors(checkpoint("llama"), tmp_path / "copy", spoil)
    with pytest.raises(UserError, match=rf"got {value} in model\.layers\.1\.mlp\.up_.*\[3, 2\]"):
        load_policy(folder)


def test_weights_too_large_for_half_precision_are_told_from_a_diverged_run(checkpoint, tmp_path):
    folder = with_tensors(
        checkpoint("llama"),
        tmp_path / "a",
        lambda held: {name: x * 1e6 if "up_proj" in name else x for name, x in held.items()},
    )
    load_policy(folder)
    with pytest.raises(UserError, match=r"read as float16.*bfloat16 as `dtype`"):
        load_policy(folder, dtype="float16")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 1}, "asks for 1 layers and the files have more, of layer 1"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised weights"),
        ({"transformers_weights": "other.safetensors"}, "a weight file of another name"),
        ({"architectures": None, "model_type": "bert"}, "weights that do not fit"),
        ({"num_attention_heads": "two"}, "a folder that transformers cannot load"),
    ],
)
def test_configurations_of_another_model_are_refused(change, message, checkpoint, tmp_path):
    folder = with_settings(checkpoint("olmo2"), tmp_path / "copy", **change)
    with pytest.raises(UserError, match=message):
        load_policy(folder)


def test_buffers_of_the_files_have_to_be_finite_and_there(tmp_path):
    config = transformers.DeepseekV3Config(
        **letters.GROUPED,
        moe_intermediate_size=8,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=8,
        first_k_dense_replace=1,
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / "whole")
    letters.tokenizer().save_pretrained(tmp_path / "whole")
    load_policy(str(tmp_path / "whole"))
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    spoilt = with_tensors(
        tmp_path / "whole", tmp_path / "spoilt", lambda held: held | {name: held[name] * math.nan}
    )
    with pytest.raises(UserError, match=rf"got nan in {name}\[0\]"):
        load_policy(spoilt)
    lacking = with_tensors(tmp_path / "whole", tmp_path / "lacking", without("e_score"))
    with pytest.raises(UserError, match=rf"no tensor for {name};.*belong together"):
        load_policy(lacking)


def test_damaged_generation_settings_are_not_taken_for_none(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("llama"), tmp_path / "copy")
    whole = (folder / "generation_config.json").read_text()
    (folder / "generation_config.json").write_text(whole.rstrip()[:-1])
    with pytest.raises(UserError, match=r"a damaged generation_config\.json"):
        load_policy(str(folder))
