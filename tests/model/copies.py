"""Copies of a checkpoint in which something is changed."""

import json
import shutil

from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"


def with_tensors(folder, copy, change):
    """A copy whose tensors, a dictionary, are what a function makes of the checkpoint's."""
    target = shutil.copytree(folder, copy)
    held = change(load_file(target / WEIGHTS))
    save_file(
        {name: x.contiguous().clone() for name, x in held.items()},
        target / WEIGHTS,
        {"format": "pt"},
    )
    return str(target)


def with_settings(folder, copy, name="config.json", **change):
    """A copy with some entries of a JSON file replaced."""
    target = shutil.copytree(folder, copy)
    settings = json.loads((target / name).read_text())
    (target / name).write_text(json.dumps(settings | change))
    return str(target)
