"""From the name of a reward to the reward; the user's functions run in a process of their own."""

import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from valuegrad.errors import UserError, check_positive, suggestion
from valuegrad.rewards.exact import Exact
from valuegrad.rewards.example import Example
from valuegrad.rewards.function import FunctionReward
from valuegrad.rewards.mathematics import mathematics
from valuegrad.rewards.number import number
from valuegrad.rewards.source import function_sha256, module_sha256, own_modules
from valuegrad.rewards.worker import EndedError, Worker

NAMES = ("exact", "number", "math")
TIMEOUT = 60.0
# In the hashes of tasks; change one when its reward scores otherwise.
_NUMBER = "bcbbef7ddfd4074122b5ea34ebb45691875b0c437d4ee6d6cedb1e54605954db"
_MATH = "ed3f4f729f3a71930f77724eaf4bbb2db0d531d71cfbe8c7aefee3fb9b98d69b"
# Their versions decide what `math` gives, too.
_MATH_PACKAGES = ("math-verify", "latex2sympy2-extended", "sympy")
_WORKER = Worker()


@dataclass(frozen=True)
class ImportedReward:
    """A function ``module:function``, called as `FunctionReward` says but under a time limit.

    One process imports all of them by name, apart from this program, and keeps their state. A call
    that takes longer than `timeout` seconds ends it; the next call imports the module anew.
    `identity` holds the module's file and those of the user's modules that it imports.
    """

    name: str
    timeout: float
    identity: str
    binary: bool = False

    def __call__(
        self,
        examples: Sequence[Example],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]] | None = None,
    ) -> list[float]:
        """One finite reward for each completion."""
        argument = f"reward {self.name}"
        # Outside the limit: a new process imports the module.
        identity, fault = _imported(self.name)
        if identity != self.identity:
            got = fault or "an edited function"
            raise UserError(argument, got, "the function of the task", "make the task anew")
        call = (_score, self.name, examples, completions, completion_ids)
        try:
            rewards, complaint = _WORKER.call(*call, limit=self.timeout)
        except EndedError as error:
            got = f"{error} (first prompt {examples[0].prompt!r})"
            wanted = "a function that scores every completion in time"
            fix = "mend the function, or raise `reward_timeout`"
            raise UserError(argument, got, wanted, fix) from error
        except Exception as error:
            fix = "make a FunctionReward of the function, which runs in this process"
            wanted = "a function and columns that another process can have"
            raise UserError(argument, f"{type(error).__name__}: {error}", wanted, fix) from error
        if complaint:
            raise UserError(*complaint)
        return list(rewards)


def reward_named(name: str, timeout: float = TIMEOUT) -> Exact | FunctionReward | ImportedReward:
    """The reward ``exact``, ``number``, ``math`` or ``module:function``, of the working folder too.

    A module that only this process has, such as ``__main__``, cannot be imported in another: its
    function runs here, without a time limit.
    """
    check_positive("reward_timeout", timeout, f"use the default, {TIMEOUT:g}")
    if name == "exact":
        return Exact()
    if name == "number":
        return FunctionReward(name, number, binary=True, version=_NUMBER)
    if name == "math":
        if importlib.util.find_spec("math_verify") is None:
            got, fix = "'math' without math-verify installed", "pip install 'valuegrad[math]'"
            raise UserError("reward", got, "the extra that holds it", fix)
        version = " ".join((_MATH, *(f"{p} {installed(p)}" for p in _MATH_PACKAGES)))
        return FunctionReward(name, mathematics, binary=True, version=version)
    module, _, function = name.partition(":")
    if not module or not function:
        fix = suggestion(name, NAMES, "use one of those")
        raise UserError("reward", repr(name), f"{', '.join(NAMES)} or module:function", fix)
    identity, fault = _imported(name)
    if identity:
        return ImportedReward(name, timeout, identity)
    here = getattr(sys.modules.get(module), function, None)
    if callable(here):
        return FunctionReward(name, here)
    fix = "check both names; the working folder is searched too"
    raise UserError("reward", f"{name!r}, {fault}", "a function of an importable module", fix)


def _imported(name: str) -> tuple[str, str]:
    """The identity of a function as its files are now, or what is wrong; a fresh process has it."""
    call = (_import, name, str(Path.cwd()), sys.path)
    identity, fault, stale = _WORKER.call(*call)
    if stale:
        _WORKER.close()
        identity, fault, _ = _WORKER.call(*call)
    return identity, fault


# In the process, by module: the modules that came with it, and its hash when it was imported.
_loaded: dict[str, tuple[tuple[str, ...], str]] = {}


def _import(name: str, folder: str, path: list[str]) -> tuple[str, str, bool]:
    """Runs in the process: an identity, or a fault; whether the process has older code."""
    os.chdir(folder)
    sys.path[:] = path if folder in path else [folder, *path]
    sys.dont_write_bytecode = True  # its times are too coarse for a file that was just edited
    importlib.invalidate_caches()
    module, known = name.partition(":")[0], own_modules()
    try:
        function = _function(name).function
        if module not in _loaded:
            new = tuple(sorted(own_modules() - known))
            _loaded[module] = new, module_sha256(module, new)
        new, then = _loaded[module]
        now = module_sha256(module, new)
        return f"{name}\n{now or function_sha256(function)}", "", now != then
    except BaseException as error:
        return "", f"which cannot be imported ({type(error).__name__}: {error})", False


def _function(name: str) -> FunctionReward:
    module, _, function = name.partition(":")
    found = getattr(importlib.import_module(module), function)
    if not callable(found):
        raise TypeError(f"a {type(found).__name__}, not a function")
    return FunctionReward(name, found)


def _score(name: str, *call: Any) -> tuple[list[float], tuple[str, str, str, str] | None]:
    """Runs in the process: rewards, or the four texts of a `UserError`."""
    try:
        return _function(name)(*call), None
    except UserError as error:
        return [], (error.argument, error.got, error.wanted, error.fix)
