"""The configuration of a study: TOML in, checked, with every default filled in."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from valuegrad.budget import Budget
from valuegrad.cli.messages import wrong_key
from valuegrad.errors import UserError, check_positive, suggestion
from valuegrad.impact.settings import Sampling
from valuegrad.tasks.settings import TaskSettings

PRECISE = ("float32", "float64")  # what probe steps and RL can move in


@dataclass(frozen=True)
class StudyConfig:
    """Everything that decides the result of a study.

    Attributes:
        checkpoints: references: folders, globs of folders, or ``repo@pattern*`` on the hub.
        task: what to learn.
        budget: the RL budget, its method included.
        sampling: how the task is measured: the probe step, and rollouts where they are needed.
        site: where value gradients and costates live.
        alpha: tilt of the headroom.
        dtype: of the arithmetic.
    """

    checkpoints: tuple[str, ...]
    task: TaskSettings = field(default_factory=TaskSettings)
    budget: Budget = field(default_factory=Budget)
    sampling: Sampling = field(default_factory=Sampling)
    site: int | str = "final"
    alpha: float = 5.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if not self.checkpoints:
            raise UserError("checkpoints", "an empty list", "at least one", "name a folder")
        check_positive("alpha", self.alpha, "use the default, 5")
        if self.dtype not in PRECISE:
            raise UserError("dtype", repr(self.dtype), " or ".join(PRECISE), "choose one")

    def resolved(self) -> str:
        """The whole configuration as JSON, defaults included: what a study folder belongs to."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


def load_config(path: str | Path, flags: Mapping[str, Any] | None = None) -> StudyConfig:
    """Read a study's configuration from TOML, with flags on top.

    Args:
        path: the TOML file. Relative checkpoints and task files are taken from the working folder.
        flags: dotted keys such as ``budget.seeds`` and their values; None values are left out.

    Returns:
        The configuration.

    Raises:
        UserError: no such file, TOML that does not parse, an unknown key (with the nearest known
            one), or a value of the wrong kind.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("CONFIG", str(path), "a TOML file", "check the path")
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            str(path), f"TOML that does not parse ({error})", "TOML", "mend it"
        ) from error
    for dotted, value in (flags or {}).items():
        if value is not None:
            *parents, last = dotted.split(".")
            branch = tree
            for parent in parents:
                branch = branch.setdefault(parent, {}) if isinstance(branch, dict) else None
            if not isinstance(branch, dict):
                got = f"{dotted}, below something that is no table"
                raise UserError("--set", got, "a key of the file", "for example budget.seeds=1")
            branch[last] = value
    return parse_config(tree, str(path))


def parse_config(tree: Mapping[str, Any], source: str = "config") -> StudyConfig:
    """Check a configuration given as nested mappings.

    Args:
        tree: keys as in the TOML file.
        source: where it came from, for messages.

    Returns:
        The configuration.

    Raises:
        UserError: as `load_config`.

    Example:
        >>> parse_config({"checkpoints": ["runs/step*"]}).budget.seeds
        3
    """
    try:
        return _ADAPTER.validate_python(dict(tree))
    except ValidationError as error:
        raise _explained(error, source) from error


def _explained(error: ValidationError, source: str) -> UserError:
    unknown = ("unexpected_keyword_argument", "extra_forbidden")
    # A misspelt key also leaves the right one missing: speak of the misspelling.
    first = min(error.errors(), key=lambda found: found["type"] not in unknown)
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UserError):
        return cause
    # Past the key come the branches of a union and places in a list, which say nothing here.
    nested = 2 if first["loc"][0] in _SECTIONS else 1
    location = [str(part) for part in first["loc"][:nested]]
    key = f"{source}: {'.'.join(location)}"
    if first["type"] in unknown:
        known = _known_keys(location[:-1])
        fix = suggestion(location[-1], known, f"known keys: {', '.join(known)}")
        return UserError(key, "an unknown key", "a key that valuegrad knows", fix)
    if first["type"] in ("missing", "missing_argument"):
        return UserError(key, "nothing", "a value", "add the key")
    owner = _SECTIONS.get(location[0], StudyConfig) if len(location) > 1 else StudyConfig
    return wrong_key(key, first, getattr(owner, location[-1], None))


def _known_keys(section: list[str]) -> list[str]:
    owner: Any = _SECTIONS.get(section[-1] if section else "", StudyConfig)
    return [f.name for f in fields(owner)]


_SECTIONS = {"task": TaskSettings, "budget": Budget, "sampling": Sampling}


# pydantic reads a plain dataclass's settings from this attribute: unknown keys are refused.
for _owner in (TaskSettings, Budget, Sampling, StudyConfig):
    _owner.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[union-attr]
_ADAPTER = TypeAdapter(StudyConfig)
