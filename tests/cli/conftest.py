"""A one-token task in a file, and flags that measure it quickly."""

import json

import pytest


@pytest.fixture
def task_file(tmp_path):
    path = tmp_path / "task.jsonl"
    rows = ({"prompt": f"offset {i}: '", "answer": "B" if i % 2 else "a"} for i in range(24))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def flags(task_file):
    return ["--task", str(task_file), "--updates", "1,2", "--learning-rate", "1e-3"]
