"""A hub on the loopback with six revisions of a tiny model, and a quick task."""

import json

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save
from tests.checkpoints.cached import NAMES, REPO, STEPS, WEIGHTS
from tests.checkpoints.server import Hub, serve


@pytest.fixture(scope="session")
def trajectory(checkpoint):
    """Return six revisions, each a little further from random, and what is no step."""
    folder = checkpoint("olmo2")
    small = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != WEIGHTS}
    start = load_file(folder / WEIGHTS)
    revisions = {}
    for step, name in zip(STEPS, NAMES, strict=True):
        generator = torch.Generator().manual_seed(step)
        moved = {k: v + 0.1 * torch.randn(v.shape, generator=generator) for k, v in start.items()}
        revisions[name] = {**small, WEIGHTS: save(moved, metadata={"format": "pt"})}
    # As on the hub: not in order of step, beside other branches.
    shuffled = {name: revisions[name] for name in sorted(NAMES, reverse=True)}
    return {"main": revisions[NAMES[-1]], **shuffled, "stage2-step10": revisions[NAMES[0]]}


@pytest.fixture
def hub(trajectory, tmp_path, monkeypatch):
    """Return a hub that holds the revisions; the client talks to it and keeps an empty cache."""
    copies = {name: dict(found) for name, found in trajectory.items()}
    with serve(Hub({REPO: copies})) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        # The client's first request of a process asks for this too, whichever test that falls in.
        registry = {"standardEnvVars": [], "harnesses": {}}
        monkeypatch.setattr("huggingface_hub.utils._detect_agent._registry", registry)
        # The client waits between attempts; here they all fail or succeed at once.
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
        yield server


@pytest.fixture
def flags(tmp_path):
    """Return a task that is quick enough for a test, and where records go."""
    rows = [{"prompt": f"offset {i}: '", "answer": "B" if i % 2 else "a"} for i in range(12)]
    path = tmp_path / "task.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--task", str(path), "--updates", "1", "--learning-rate", "1e-3", "--json"]
