"""Damaged checkpoints and task files, at random: the number of the whole ones, or exit code 2.

What no check can know is left out: a change after which the files still say one whole, other model,
such as other values of the right shape, another rope base, or another vocabulary of the same size.
"""

import json
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import letters

from valuegrad.cli.app import run

COUNT = 300
PARTS = 10  # so that the cores share them
WEIGHTS = "model.safetensors"
ROWS = [
    {"prompt": f"{a}{b}{c}", "answer": "abcd"[(i + j) % 4]}
    for i, a in enumerate("abcd")
    for j, b in enumerate("abcd")
    for c in "ab"
]


@pytest.fixture
def scored(capfd):
    """The expected reward by `score`, None where it refuses with one message."""

    def score(folder, task):
        capfd.readouterr()
        words = ["score", str(folder), "--task", str(task), "--updates", "1", "--json"]
        code = run([*words, "--group-size", "2", "--learning-rate", "1e-4"])
        said = capfd.readouterr()
        if code == 0:
            (row,) = json.loads(said.out)
            return row["reward_before"]
        assert code == 2, said.err
        assert said.out == ""
        assert "Traceback" not in said.err
        assert "got" in said.err
        assert "wanted" in said.err
        return None

    return score


@pytest.fixture
def whole(tmp_path):
    """A checkpoint over six letters, and a task."""
    policy = letters.policy("llama", "float32")
    policy.model.save_pretrained(tmp_path / "whole")
    letters.tokenizer().save_pretrained(tmp_path / "whole")
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path / "whole", tmp_path / "task.jsonl"


def rename(rng, held):
    name = rng.choice(sorted(held))
    i = rng.randrange(len(name))
    return {
        (name[:i] + rng.choice(".x_0") + name[i:] if n == name else n): x for n, x in held.items()
    }


def prefix(rng, held):
    first = rng.choice(["module.", "_orig_mod.", "base_model.model.", "model.", "transformer."])
    return {first + n: x for n, x in held.items()}


def drop(rng, held):
    gone = set(rng.sample(sorted(held), rng.randint(1, 3)))
    return {n: x for n, x in held.items() if n not in gone}


def duplicate(rng, held):
    name = rng.choice(sorted(held))
    layers = name.replace("layers.1", f"layers.{rng.randint(2, 9)}")
    return held | {(layers if layers != name else f"copy.{name}"): held[name].clone()}


def transpose(rng, held):
    name = rng.choice(
        sorted(n for n, x in held.items() if x.dim() == 2 and x.shape[0] != x.shape[1])
    )
    return held | {name: held[name].T.contiguous()}


def truncate(rng, held):
    name = rng.choice(sorted(held))
    return held | {name: held[name][:-1].contiguous()}


def spoil(rng, held):
    name = rng.choice(sorted(held))
    spoilt = held[name].clone()
    spoilt.view(-1)[rng.randrange(spoilt.numel())] = rng.choice([float("nan"), float("inf")])
    return held | {name: spoilt}


def retype(rng, held):
    name = rng.choice(sorted(n for n, x in held.items() if x.dim() == 2))
    return held | {name: held[name].to(rng.choice([torch.int8, torch.int32, torch.uint8]))}


def of_tensors(change):
    def corrupt(rng, folder):
        held = change(rng, load_file(folder / WEIGHTS))
        save_file({n: x.contiguous() for n, x in held.items()}, folder / WEIGHTS, {"format": "pt"})

    return corrupt


def cut(rng, folder):
    path = folder / rng.choice([WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json"])
    whole = path.read_bytes()
    path.write_bytes(whole[: rng.randrange(len(whole))])


def remove(rng, folder):
    (folder / rng.choice([WEIGHTS, "config.json", "tokenizer.json"])).unlink()


def edit_config(rng, folder):
    config = json.loads((folder / "config.json").read_text())
    key, value = rng.choice(
        [
            ("num_hidden_layers", rng.choice([1, 3, "2", None, -1])),
            ("hidden_size", rng.choice([8, 32, "16", 0])),
            ("vocab_size", rng.choice([5, 7, 600])),
            ("intermediate_size", rng.choice([23, 48])),
            ("model_type", rng.choice(["olmo2", "gpt2", "bert", "mamba", "", "no-such"])),
            ("architectures", rng.choice([["LlamaModel"], [], None])),
            ("tie_word_embeddings", True),
            ("quantization_config", {"quant_method": "bitsandbytes"}),
            ("torch_dtype", rng.choice(["float16", "no-such"])),
        ]
    )
    (folder / "config.json").write_text(json.dumps(config | {key: value}))


def swap_tokenizer(rng, folder):
    saved = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = saved["model"]["vocab"]
    change = rng.choice(["more", "closing", "class", "type", "no unknown"])
    if change == "more":
        vocabulary.update({f"more{i}": 6 + i for i in range(rng.randint(1, 9))})
    elif change == "closing":
        end = {"SpecialToken": {"id": "<|end|>", "type_id": 0}}
        text = {"Sequence": {"id": "A", "type_id": 0}}
        saved["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [text, end],
            "pair": [text, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [0], "tokens": ["<|end|>"]}},
        }
    elif change == "type":
        saved["model"]["type"] = rng.choice(["BPE", "Unigram", "no-such"])
    elif change == "no unknown":
        saved["model"]["vocab"] = []
    if change == "class":
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text())
        other = rng.choice(["Qwen2Tokenizer", "BertTokenizer", "T5Tokenizer", "NoSuchTokenizer"])
        path.write_text(json.dumps(settings | {"tokenizer_class": other}))
    (folder / "tokenizer.json").write_text(json.dumps(saved))


def add_files(rng, folder):
    """Files that transformers leaves alone, and an adapter that it would not."""
    name = rng.choice(["README.md", "model.safetensors.index.json", "other.safetensors", "adapter"])
    if name == "adapter":
        base = {"peft_type": "LORA", "base_model_name_or_path": str(folder)}
        (folder / "adapter_config.json").write_text(json.dumps(base))
    elif name.endswith("index.json"):
        weight_map = {"weight_map": {"w": "model-00001-of-00001.safetensors"}}
        (folder / name).write_text(json.dumps(weight_map))
    else:
        (folder / name).write_bytes(b"no weights")


CORRUPTIONS = (
    *map(of_tensors, (rename, prefix, drop, duplicate, transpose, truncate, spoil, retype)),
    cut,
    remove,
    edit_config,
    edit_config,
    swap_tokenizer,
    swap_tokenizer,
    add_files,
)


@pytest.mark.parametrize("part", range(PARTS))
def test_a_damaged_checkpoint_never_gives_another_number(part, whole, scored, tmp_path):
    folder, task = whole
    right = scored(folder, task)
    assert right > 0
    refused = 0
    for i in range(part, COUNT, PARTS):
        rng = random.Random(f"checkpoint {i}")
        copy = shutil.copytree(folder, tmp_path / "copy")
        rng.choice(CORRUPTIONS)(rng, copy)
        found = scored(copy, task)
        refused += found is None
        assert found in (None, pytest.approx(right, rel=1e-6)), i
        shutil.rmtree(copy)
    assert refused > COUNT // PARTS // 2


def damaged_lines(rng, lines):
    """The lines of the task after one change that leaves its rows alone, or spoils one."""
    i, changed = rng.randrange(len(lines)), list(lines)
    row = json.loads(lines[i])
    spoilt = rng.choice(
        [
            "",
            "not json",
            lines[i][: rng.randrange(1, len(lines[i]))],
            json.dumps([row]),
            json.dumps(row["prompt"]),
            json.dumps({"prompt": row["prompt"]}),
            json.dumps({**row, "answer": rng.choice([None, True, [], {}, ""])}),
            json.dumps({**row, "prompt": rng.choice([None, 3, [], ""])}),
            lines[i].replace('"answer"', '"Answer"'),
            lines[i][:-1] + ', "answer": "d"}',
            '{"prompt": "a\\ud83d", "answer": "a"}',
            '{"prompt": "ab\\u0000", "answer": "a"}',
            '{"prompt": "aab", "answer": ' + "9" * 5000 + "}",
            '{"prompt": "aab", "answer": NaN}',
            "[" * 3000,
        ]
    )
    how = rng.choice(
        ["spoil", "spoil", "spoil", "shuffle", "repeat", "spaces", "escapes", "column"]
    )
    if how == "spoil":
        changed[i] = spoilt
    elif how == "shuffle":
        rng.shuffle(changed)
    elif how == "repeat":
        changed.insert(rng.randrange(len(lines)), lines[i])
    elif how == "spaces":
        changed[i] = f"  {lines[i]}\t"
    elif how == "escapes":
        text = "".join(f"\\u{ord(c):04x}" for c in row["prompt"])
        changed[i] = f'{{"prompt": "{text}", "answer": "{row["answer"]}"}}'
    else:
        changed[i] = json.dumps({**row, "note": "of no use"})
    return changed


@pytest.mark.parametrize("part", range(PARTS))
def test_a_damaged_task_file_never_gives_another_number(part, whole, scored):
    folder, task = whole
    lines = task.read_text().splitlines()
    right = scored(folder, task)
    refused = 0
    for i in range(part, COUNT, PARTS):
        rng = random.Random(f"task {i}")
        text = rng.choice(["\n", "\r\n"]).join(damaged_lines(rng, lines)) + "\n"
        data = text.encode()
        if rng.random() < 0.1:
            data = rng.choice([b"\xef\xbb\xbf" + data, data.replace(b"a", b"\xff", 1), b"", b"\n"])
        task.write_bytes(data)
        found = scored(folder, task)
        refused += found is None
        assert found in (None, pytest.approx(right, rel=1e-6)), i
    assert refused > 0
