"""Identities of reward functions: every file and value that decides them, and nothing else."""

import functools
import importlib
import linecache
import math
import sys

import pytest

from valuegrad.errors import UserError
from valuegrad.rewards.example import Example
from valuegrad.rewards.function import FunctionReward
from valuegrad.rewards.named import reward_named
from valuegrad.rewards.source import function_sha256, module_sha256


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Writes modules into a folder of the user's; those imported here are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(**files):
        for name, body in files.items():
            path = tmp_path / (name.replace("__in__", "/") + ".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(body)
        importlib.invalidate_caches()
        return tmp_path

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def edited(write, name, body, module="grades"):
    """Whether writing another body changes the hash of a module."""
    before = module_sha256(module)
    write(**{name: body})
    return module_sha256(module) != before


def test_every_module_that_a_reward_imports_counts(project):
    project(
        grades="import json, torch, far.x as x\n"
        + "def f(completions, **_):\n    from late import g\n    return g(completions)\n",
        far__in__x="from .near import LIMIT\nfrom . import other\n",
        far__in__near="LIMIT = 1\n",
        far__in__other="A = 1\n",
        late="from deep import g\n",
        deep="g = len\n",
        unused="B = 1\n",
    )
    assert edited(project, "grades", (project() / "grades.py").read_text() + "C = 2\n")
    for name in ("far__in__x", "far__in__near", "far__in__other", "late", "deep"):
        assert edited(
            project, name, (project() / f"{name.replace('__in__', '/')}.py").read_text() + "#"
        )
    assert not edited(project, "unused", "B = 2\n")
    assert edited(project, "far__in____init__", "A = 3\n")
    assert module_sha256("json") == module_sha256("torch") == module_sha256("valuegrad") == ""


def test_a_mended_helper_is_another_reward_and_runs_at_once(project):
    body = (
        "import help_me\ndef f(completions, **_):\n    return [help_me.WORTH] * len(completions)\n"
    )
    project(grade_one=body, help_me="WORTH = 1\n")
    examples = [Example("p", "a")]
    first = reward_named("grade_one:f")
    assert first(examples, ["x"]) == [1.0]
    project(help_me="WORTH = 2\n")
    with pytest.raises(UserError, match="an edited function"):
        first(examples, ["x"])
    second = reward_named("grade_one:f")
    assert second.identity != first.identity
    assert second(examples, ["x"]) == [2.0]
    project(help_me="WORTH = 1\n")
    assert reward_named("grade_one:f") == first
    assert first(examples, ["x"]) == [1.0]


def test_a_module_that_is_imported_by_a_made_up_name_counts_too(project):
    body = "import importlib\nhelper = importlib.import_module('hid' + 'den')\n"
    project(grade_two=body + "def f(completions, **_):\n    return [helper.A]\n", hidden="A = 1\n")
    first = reward_named("grade_two:f").identity
    project(hidden="A = 2\n")
    assert reward_named("grade_two:f").identity != first


def test_a_function_of_a_file_has_its_file_and_its_values(project):
    project(made="LIMIT = 3\ndef make(weight):\n    return lambda **_: [weight]\n")
    import made

    half, whole = made.make(0.5), made.make(1.0)
    assert function_sha256(half) == function_sha256(made.make(0.5)) != function_sha256(whole)
    before = function_sha256(half)
    project(made="LIMIT = 4\ndef make(weight):\n    return lambda **_: [weight]\n")
    assert function_sha256(half) != before
    partials = [functools.partial(made.make, weight=w) for w in (1, 1, 2)]
    first, same, other = map(function_sha256, partials)
    assert first == same != other


class Grader:
    def __init__(self, weight):
        self.weight = weight

    def __call__(self, completions, **_):
        return [self.weight] * len(completions)


def test_an_object_has_its_values():
    first, same, other = (FunctionReward("g", Grader(w)).identity for w in (1, 1, 2))
    assert first == same != other
    assert function_sha256(Grader(1).__call__) != function_sha256(Grader(2).__call__)
    assert function_sha256(math.fsum) != function_sha256(math.prod)


def notebook(cells, monkeypatch):
    """The module that a notebook is: cells of source without a file."""
    module = type(sys)("a_notebook")
    monkeypatch.setitem(sys.modules, "a_notebook", module)
    for number, cell in enumerate(cells):
        name = f"<cell {number} {hash(cell)}>"
        linecache.cache[name] = (len(cell), None, cell.splitlines(True), name)
        exec(compile(cell, name, "exec"), module.__dict__)
    return module.f


def test_a_function_of_a_notebook_has_the_functions_and_constants_that_it_names(monkeypatch):
    cells = [
        "WORTH = 2\nOTHER = 1\n",
        "def extract(text):\n    return text.strip()\n",
        "def f(completions, **_):\n    return [WORTH * len(extract(c)) for c in completions]\n",
    ]

    def sha256(old="", new=""):
        return function_sha256(notebook([c.replace(old, new) for c in cells], monkeypatch))

    assert sha256() == sha256() == sha256("OTHER = 1", "OTHER = 3")
    changed = {
        sha256("WORTH = 2", "WORTH = 3"),
        sha256("strip", "lstrip"),
        sha256("* len", "+ len"),
    }
    assert len({*changed, sha256()}) == 4
