"""From the name of a reward to the reward."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from valuegrad.errors import UserError, check_positive, suggestion
from valuegrad.rewards import mathematics
from valuegrad.rewards.exact import Exact
from valuegrad.rewards.function import TIMEOUT, FunctionReward
from valuegrad.rewards.number import number
from valuegrad.rewards.time_limit import call

NAMES = ("exact", "number", "math")


def reward_named(name: str, timeout: float = TIMEOUT) -> Exact | FunctionReward:
    """The reward that a name stands for.

    Args:
        name: ``exact``, ``number``, ``math`` or ``module:function``; a module beside the working
            folder counts too.
        timeout: the most seconds that a call of the function may take.

    Returns:
        The reward.

    Raises:
        UserError: no such reward, the function cannot be imported, or math-verify is missing.

    Example:
        >>> reward_named("exact")
        Exact()
    """
    check_positive("reward_timeout", timeout, f"use the default, {TIMEOUT:g}")
    if name == "exact":
        return Exact()
    if name == "number":
        return FunctionReward(name, number, binary=True, timeout=None)
    if name == "math":
        mathematics.check_installed()
        return FunctionReward(name, mathematics.mathematics, binary=True, timeout=None)
    module, _, function = name.partition(":")
    if not module or not function:
        fix = suggestion(name, NAMES, "use one of those")
        raise UserError("reward", repr(name), f"{', '.join(NAMES)} or module:function", fix)
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = call(lambda: getattr(importlib.import_module(module), function))
    except Exception as error:
        raise UserError(
            "reward",
            f"{name!r}, which cannot be imported ({type(error).__name__}: {error})",
            "module:function of an importable module",
            "check both names; the working folder is searched too",
        ) from error
    if not callable(found):
        raise UserError("reward", f"{name!r}, a {type(found).__name__}", "a function", "name one")
    return FunctionReward(name, found, timeout=timeout)
