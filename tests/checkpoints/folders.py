"""Folders that look like checkpoints."""

from pathlib import Path

import torch
from safetensors.torch import save_file


def make(folder: Path, value: float = 0.0) -> Path:
    """Write a checkpoint's folder whose one weight has a value."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    save_file({"w": torch.full((64,), value)}, folder / "model.safetensors")
    return folder
