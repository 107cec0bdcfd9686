"""A small trajectory of checkpoints and a study over it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

STEPS = (10, 20, 30, 40, 50)


@pytest.fixture(scope="session")
def trajectory(checkpoint, tmp_path_factory):
    """Return a folder with step10 … step50, each a little further from random."""
    folder = tmp_path_factory.mktemp("trajectory")
    source = checkpoint("olmo2")
    for step in STEPS:
        target = shutil.copytree(source, folder / f"step{step}")
        weights = load_file(target / "model.safetensors")
        generator = torch.Generator().manual_seed(step)
        moved = {k: v + 0.1 * torch.randn(v.shape, generator=generator) for k, v in weights.items()}
        save_file(moved, target / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def config(trajectory, tmp_path):
    """Return the path of a study's configuration, quick enough for a test."""
    rows = [{"prompt": f"offset {i}: '", "answer": "B" if i % 2 else "a"} for i in range(40)]
    task = tmp_path / "task.jsonl"
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "study.toml"
    path.write_text(
        f"checkpoints = ['{trajectory}/step*']\n"
        f"[task]\nname = '{task}'\n"
        "[budget]\nupdates = [1, 2]\nseeds = 2\nlearning_rate = 1e-3\nprompts_per_update = 4\n"
    )
    return path
