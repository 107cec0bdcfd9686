"""References, revisions and what makes a folder unusable."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from valuegrad.checkpoints.checkpoint import parse_revision
from valuegrad.checkpoints.files import content_sha256, validate, weights_sha256
from valuegrad.checkpoints.references import resolve
from valuegrad.errors import UserError


def make(folder: Path, value: float = 0.0) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    save_file({"w": torch.full((64,), value)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("name", "stage", "step", "tokens"),
    [
        ("stage1-step50000-tokens105B", 1, 50_000, 105 * 10**9),
        ("stage2-ingredient1-step1000-tokens5B", 2, 1000, 5 * 10**9),
        ("stage1-step0", 1, 0, None),
        ("step1000", None, 1000, None),
        ("step-240000", None, 240_000, None),
        ("stage3-step-4720000", 3, 4_720_000, None),
        ("ckpt_000", None, 0, None),
        ("step50000-tokens210B", None, 50_000, 210 * 10**9),
        ("step7-tokens1.5T", None, 7, 1_500_000_000_000),
        ("checkpoint-150", None, 150, None),
        ("main", None, None, None),
        ("footstep12", None, None, None),
    ],
)
def test_every_known_scheme_is_read(name, stage, step, tokens):
    found = parse_revision(name)
    assert (found.stage, found.step, found.tokens) == (stage, step, tokens)


def test_a_glob_is_sorted_by_step_and_a_folder_named_twice_is_taken_once(tmp_path):
    for step in (100, 20, 3):
        make(tmp_path / f"step{step}")
    make(tmp_path / "stepping")
    (tmp_path / "step5").mkdir()
    found = resolve([f"{tmp_path}/step*", f"{tmp_path}/step20"])
    assert [c.label for c in found] == ["step3", "step20", "step100", "stepping"]
    assert [c.step for c in found] == [3, 20, 100, None]


def test_stages_come_before_steps(tmp_path):
    for name in ("stage2-step10", "stage1-step500", "stage1-step9"):
        make(tmp_path / name)
    labels = [c.label for c in resolve([f"{tmp_path}/stage*"])]
    assert labels == ["stage1-step9", "stage1-step500", "stage2-step10"]


def test_equal_labels_are_told_apart_by_their_parents(tmp_path):
    make(tmp_path / "a" / "step1")
    make(tmp_path / "b" / "step1")
    assert [c.label for c in resolve([f"{tmp_path}/*/step1"])] == ["a/step1", "b/step1"]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("{}/none*", "matches no folder.*Fix: .* holds step1"),
        ("{}/step2", "no such folder.*holds step1"),
        ("{}/file", "got a file"),
    ],
)
def test_a_reference_to_nothing_says_what_is_there(tmp_path, reference, message):
    make(tmp_path / "step1")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=message):
        resolve([reference.format(tmp_path)])


def test_the_hash_follows_the_weights_and_not_the_name(tmp_path):
    first, other = make(tmp_path / "a", 1.0), make(tmp_path / "b", 2.0)
    moved = shutil.copytree(first, tmp_path / "c")
    a, b, c = (resolve([str(path)])[0] for path in (first, other, moved))
    assert weights_sha256(a) == weights_sha256(c) != weights_sha256(b)
    assert content_sha256(a) == content_sha256(c)
    (moved / "tokenizer.json").write_text("{}")
    assert weights_sha256(a) == weights_sha256(c)
    assert content_sha256(a) != content_sha256(c)


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
    index = {"weight_map": {"w": "model-00001-of-00002.safetensors"}}
    (missing / "model.safetensors.index.json").write_text(json.dumps(index))
    for folder, message in (
        (no_config, "without config.json.*inside it"),
        (empty, "without weights"),
        (pickled, "pickled weights only.*safetensors"),
        (cut, "unreadable safetensors.*cut off"),
        (missing, "no file model-00001-of-00002"),
    ):
        with pytest.raises(UserError, match=message):
            validate(resolve([str(folder)])[0])
