"""What makes a checkpoint whole, and the hash of what it computes with."""

import json
import os
import shutil
from pathlib import Path

import pytest
from tests.checkpoints.cached import NAMES, REPO, WEIGHTS
from tests.checkpoints.folders import make

from valuegrad.checkpoints.files import content_sha256, fetch, validate, weights_sha256
from valuegrad.checkpoints.references import resolve
from valuegrad.cli.app import run
from valuegrad.errors import UserError
from valuegrad.model.loading import load_policy


def test_the_hash_follows_the_weights_and_not_the_name(tmp_path):
    first, other = make(tmp_path / "a", 1.0), make(tmp_path / "b", 2.0)
    moved = shutil.copytree(first, tmp_path / "c")
    a, b, c = (resolve([str(path)])[0] for path in (first, other, moved))
    assert weights_sha256(a) == weights_sha256(c) != weights_sha256(b)
    assert content_sha256(a) == content_sha256(c)
    (moved / "tokenizer.json").write_text("{}")
    assert weights_sha256(a) == weights_sha256(c)
    assert content_sha256(a) != content_sha256(c)


def test_a_copy_here_has_the_hash_of_the_hub_where_no_weights_were_downloaded(hub, tmp_path):
    (there,) = resolve([f"{REPO}@{NAMES[2]}"])
    before = weights_sha256(there), content_sha256(there)
    assert hub.downloads(WEIGHTS) == []
    copied = shutil.copytree(fetch(there).path, tmp_path / "copy")
    (copy,) = resolve([str(copied)])
    assert (weights_sha256(copy), content_sha256(copy)) == before
    assert weights_sha256(fetch(there)) == before[0]


def test_unusable_folders_are_named_with_the_reason(tmp_path):
    no_config = tmp_path / "no_config"
    (no_config / "inner").mkdir(parents=True)
    (no_config / "inner" / "config.json").write_text("{}")
    empty, pickled, cut = (make(tmp_path / n) for n in ("empty", "pickled", "cut"))
    (empty / "model.safetensors").unlink()
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    whole = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(whole[:-10])
    missing = make(tmp_path / "missing")
    (missing / "model.safetensors").rename(missing / "model-00002-of-00002.safetensors")
    index = {"weight_map": {"w": "model-00001-of-00002.safetensors"}}
    (missing / "model.safetensors.index.json").write_text(json.dumps(index))
    for folder, message in (
        (no_config, "without config.json.*inside it"),
        (empty, "without model.safetensors or model.safetensors.index.json"),
        (pickled, "pickled weights only.*safetensors"),
        (cut, "unreadable safetensors.*cut off"),
        (missing, "no file model-00001-of-00002"),
    ):
        with pytest.raises(UserError, match=message):
            validate(resolve([str(folder)])[0])


def test_code_runs_where_the_flag_says_so(hub):
    good = hub.repos[REPO][NAMES[0]]
    settings = json.loads(good["config.json"])
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    code = (
        b"from transformers import Olmo2Config, Olmo2ForCausalLM\n"
        b"class OwnConfig(Olmo2Config):\n    model_type = 'own'\n"
        b"class OwnModel(Olmo2ForCausalLM):\n    config_class = OwnConfig\n"
    )
    config = json.dumps({**settings, "model_type": "own", "auto_map": names}).encode()
    hub.repos["owner/own"] = {"main": {**good, "config.json": config, "own.py": code}}
    with pytest.raises(UserError, match=r"trust.remote.code"):
        load_policy("owner/own")
    assert type(load_policy("owner/own", trust_remote_code=True).model).__name__ == "OwnModel"
    before = content_sha256(resolve(["owner/own"])[0])
    hub.repos["owner/own"]["main"]["own.py"] = code + b"#\n"
    assert content_sha256(resolve(["owner/own"])[0]) != before


def test_a_score_reads_every_weight_file_once_for_its_hash(
    checkpoint, flags, tmp_path, monkeypatch
):
    folders = [shutil.copytree(checkpoint("olmo2"), tmp_path / name) for name in ("a", "b")]
    opened, plain = [], Path.open

    def counting(path, *arguments, **settings):
        if path.suffix == ".safetensors":
            opened.append(path)
        return plain(path, *arguments, **settings)

    monkeypatch.setattr(Path, "open", counting)
    assert run(["score", *map(str, folders), *flags]) == 0
    assert sorted(opened) == [folder / WEIGHTS for folder in folders]


def test_a_file_that_changed_is_hashed_anew(tmp_path):
    weights = make(tmp_path / "a") / WEIGHTS
    (here,) = resolve([str(tmp_path / "a")])
    before, times = weights_sha256(here), weights.stat()
    data = weights.read_bytes()
    # The same size, inode and time of writing, as copies and archives leave behind; what no one can
    # set, the time of the change, moves with the clock's next tick.
    while weights.stat().st_ctime_ns == times.st_ctime_ns:
        with weights.open("r+b") as stream:
            stream.write(data[:-1] + bytes([data[-1] ^ 1]))
        os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert weights_sha256(here) != before


def test_the_content_is_of_every_file_that_decides(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("llama"), tmp_path / "copy")
    chosen = resolve([str(folder)])[0]
    seen = {content_sha256(chosen)}
    for name in ("generation_config.json", "added_tokens.json", "own_tokenizer.py"):
        (folder / name).write_text('{"eos_token_id": 3}')
        seen.add(content_sha256(chosen))
    for name in ("README.md", "trainer_state.json"):
        (folder / name).write_text("{}")
        seen.add(content_sha256(chosen))
    assert len(seen) == 4
