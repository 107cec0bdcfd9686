"""From a folder to a policy: settings, dtypes, code, and folders that do not fit together."""

import json

import pytest
import torch
from tests.model.copies import with_settings

from valuegrad.errors import UserError
from valuegrad.model.loading import load_policy


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_every_parameter_has_the_dtype_asked_for(checkpoint, dtype):
    model = load_policy(str(checkpoint("llama")), dtype=dtype).model
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dtype": "int8"},
            r"dtype: got 'int8'; wanted one of float32, float64, bfloat16, float16",
        ),
        ({"device": "tpu9"}, r"device: got 'tpu9'; wanted cpu, cuda or cuda:N"),
    ],
)
def test_refuses_settings(checkpoint, options, message):
    with pytest.raises(UserError, match=message):
        load_policy(str(checkpoint("gpt2")), **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_a_device_that_is_not_here(checkpoint):
    with pytest.raises(UserError, match=r"device: got 'cuda'.*use cpu: CUDA is not here"):
        load_policy(str(checkpoint("gpt2")), device="cuda")
    assert load_policy(str(checkpoint("gpt2")), device="auto").device == torch.device("cpu")


def test_weights_and_tokenizers_that_do_not_fit_are_refused(checkpoint, tmp_path):
    folder = checkpoint("gpt2")
    other = with_settings(folder, tmp_path / "a", n_embd=32)
    with pytest.raises(UserError, match=r"weights that do not fit config.json: a wrong shape of"):
        load_policy(other)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["zzz"] = 999
    larger = with_settings(folder, tmp_path / "b", "tokenizer.json", model=tokenizer["model"])
    with pytest.raises(UserError, match=r"token ids up to 999 and a model of 285 tokens"):
        load_policy(larger)
    broken = with_settings(folder, tmp_path / "c", "tokenizer.json", model={})
    with pytest.raises(UserError, match=r"a folder without a usable tokenizer"):
        load_policy(broken)


def test_code_of_a_checkpoint_runs_only_where_it_is_asked_for(checkpoint, tmp_path):
    change = {"auto_map": {"AutoModelForCausalLM": "own.OwnModel"}, "model_type": "own"}
    folder = with_settings(checkpoint("gpt2"), tmp_path / "a", **change)
    with pytest.raises(UserError, match=r"brings its own code.*pass `trust_remote_code`"):
        load_policy(folder)
    # An architecture that transformers knows is loaded without that code.
    known = with_settings(checkpoint("gpt2"), tmp_path / "b", auto_map={})
    assert type(load_policy(known).model).__name__ == "GPT2LMHeadModel"
