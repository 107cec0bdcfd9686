"""Texts as tokens: the folder's own tokenizer.json, one BOS, and nothing behind a prompt."""

import json
import shutil

import pytest
from tests.model.copies import with_settings

from valuegrad.cli.app import run
from valuegrad.errors import UserError
from valuegrad.model.loading import load_policy
from valuegrad.model.tokens import encode
from valuegrad.prompts import tokenise
from valuegrad.rewards.exact import Exact
from valuegrad.rewards.example import Example
from valuegrad.rewards.function import FunctionReward
from valuegrad.tasks.task import Task

END = "<|end|>"
TOKEN = {"SpecialToken": {"id": END, "type_id": 0}}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}


def template(*parts):
    return {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": list(parts),
            "pair": [TEXT, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {END: {"id": END, "ids": [0], "tokens": [END]}},
        }
    }


@pytest.fixture
def with_template(checkpoint, tmp_path):
    def load(*parts):
        return load_policy(
            with_settings(
                checkpoint("llama"), tmp_path / "copy", "tokenizer.json", **template(*parts)
            )
        )

    return load


def test_a_bos_stands_once_whoever_brings_it(with_template, policy):
    plain, chosen = policy("llama", "float32"), with_template(TOKEN, TEXT)
    texts = ["label = 'B'", f"{END}label", "x"]
    alone, second, third = encode(plain, texts)
    assert second[0] == 0
    assert encode(chosen, texts) == [(0, *alone), second, (0, *third)]


def test_a_token_behind_every_text_is_refused(with_template):
    with pytest.raises(UserError, match=r"puts <\|end\|> behind every text.*post_processor"):
        with_template(TEXT, TOKEN)


def test_a_prompt_may_end_with_a_special_token_of_its_own(policy):
    (found,) = encode(policy("llama", "float32"), [f"label{END}"])
    assert found[-1] == 0


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_another_class_than_the_files_is_told_and_not_used(
    architecture, checkpoint, tmp_path, capsys
):
    # This class has a splitting rule of its own.
    change = {"tokenizer_class": "Qwen2Tokenizer"}
    folder = with_settings(
        checkpoint(architecture), tmp_path / "copy", "tokenizer_config.json", **change
    )
    capsys.readouterr()
    assert run(["trace", folder, "--prompt", "label", "--completion", " ="]) == 2
    assert "tokenizer.json beside the weights says" in capsys.readouterr().err


def test_what_a_task_reads_is_compared_too(checkpoint):
    chosen = load_policy(str(checkpoint("llama")))
    chosen.tokenizer.add_tokens(["wxyz"])
    examples = (Example("wxyz = ", "1"),)
    with pytest.raises(UserError, match=r"reads 'wxyz = ' with wxyz"):
        tokenise(chosen, Task("t", examples, examples, Exact()))


def test_a_reward_reads_every_token_that_has_a_text(checkpoint, tmp_path):
    """Ids with a gap: as many entries as the largest id are not there."""
    folder = shutil.copytree(checkpoint("llama"), tmp_path / "copy")
    saved = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = saved["model"]["vocab"]
    texts = {i: text for text, i in vocabulary.items()}
    last = max(texts)
    gone = [i for i in texts if 100 < i < 140]
    kept = {text: i for text, i in vocabulary.items() if i not in gone}
    saved["model"]["vocab"] = kept
    saved["model"]["merges"] = [
        m for m in saved["model"]["merges"] if {*m, "".join(m)} <= set(kept)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    chosen = load_policy(str(folder))
    assert len(chosen.tokenizer) <= last
    examples = (Example("label = ", "B"),)
    seen = []

    def reward(completions, **_):
        seen.extend(completions)
        return [0.0] * len(completions)

    task = Task("t", examples, examples, FunctionReward("t:r", reward), max_tokens=1)
    prompts = tokenise(chosen, task).evaluation
    prompts.reward_table(chosen, [0])
    decode = chosen.tokenizer.decode
    assert len(seen) == chosen.head.shape[0]
    assert seen[last] == decode([last]) != ""
    assert [seen[i] for i in gone] == [""] * len(gone)
