"""The configuration of a study: TOML in, checked, with every default filled in."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from valuegrad.budget import Budget
from valuegrad.errors import UserError
from valuegrad.impact.settings import Sampling
from valuegrad.settings import Positive, section, settings
from valuegrad.tasks.settings import TaskSettings

Precise = Literal["float32", "float64"]
"""What probe steps and RL can move in."""


@settings
class StudyConfig:
    """Everything that decides the result of a study."""

    checkpoints: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    """References: folders, globs of folders, or ``repo@pattern*`` on the hub."""
    task: Annotated[TaskSettings, section(TaskSettings)] = TaskSettings()
    budget: Annotated[Budget, section(Budget)] = Budget()
    sampling: Annotated[Sampling, section(Sampling)] = Sampling()
    site: int | str = "final"
    alpha: Positive = 5.0
    dtype: Precise = "float32"

    def resolved(self) -> str:
        """The whole configuration as JSON, defaults included: what a study folder belongs to."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


def load_config(path: str | Path, changes: Mapping[str, Any] | None = None) -> StudyConfig:
    """Read a study's configuration from TOML, and change dotted keys such as ``budget.seeds``.

    Relative checkpoints and task files are taken from the working folder.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("config", str(path), "a TOML file", "check the path")
    try:
        tree: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        got = f"TOML that does not parse ({error})"
        raise UserError(str(path), got, "TOML", "mend it") from error
    for dotted, value in (changes or {}).items():
        *parents, last = dotted.split(".")
        branch: Any = tree
        for parent in parents:
            below = branch.get(parent)
            branch[parent] = branch = below if isinstance(below, dict) else {}
        branch[last] = value
    try:
        return StudyConfig(**tree)
    except UserError as error:
        key = f"{path}: {error.argument}"
        raise UserError(key, error.got, error.wanted, error.fix) from error
