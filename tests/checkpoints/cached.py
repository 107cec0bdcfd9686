"""The revisions that the tests ask for, and what of them is in the client's cache."""

import os
from pathlib import Path

from huggingface_hub import constants

REPO = "owner/tiny"
STEPS = (1000, 2000, 3000, 4000, 5000, 10000)
NAMES = [f"stage1-step{step}-tokens{step // 1000}B" for step in STEPS]
WEIGHTS = "model.safetensors"
PATTERN = f"{REPO}@stage1-step*"


def here(name=WEIGHTS):
    """The revisions of which a file is in the cache, in order of step."""
    folder = Path(constants.HF_HUB_CACHE) / "models--owner--tiny"
    refs = {p.name: p.read_text() for p in (folder / "refs").iterdir()}
    return [n for n in NAMES if n in refs and (folder / "snapshots" / refs[n] / name).exists()]


def half_written():
    return list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete"))


def environment(hub, home):
    """What a user sets to have another hub and another cache."""
    settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    return {**os.environ, **settings, "HF_HUB_OFFLINE": "0"}


def weight_bytes(trajectory):
    return len(trajectory[NAMES[0]][WEIGHTS])
