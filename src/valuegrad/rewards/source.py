"""What a reward function is made of, as a hash: when any of it is edited, a reward is another one.

Of the user's modules, those outside the standard library and site-packages, whole files count, with
those that they import, wherever in them. What a function reads while it runs is not seen: files,
the network, and modules that it imports by a name made up at run time.
"""

import ast
import contextlib
import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import resolve_name
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

_LIBRARIES = [Path(sysconfig.get_path(n)).resolve() for n in ("stdlib", "platstdlib")]
_LIBRARIES.append(Path(__file__).resolve().parents[1])  # valuegrad itself
_latest: dict[object, tuple[dict[Path, tuple[int, int]], str]] = {}
_PLAIN = (str, bytes, int, float, complex, bool, type(None))


def function_sha256(function: Callable[..., Any]) -> str:
    """Hash of a function that this process has, and of the values that it was made with."""
    digest = hashlib.sha256()
    for piece in _pieces(function, {}):
        digest.update(piece.encode(errors="backslashreplace") + b"\0")
    return digest.hexdigest()


def module_sha256(module: str, loaded: tuple[str, ...] = ()) -> str:
    """Hash of a user's module and of those that it imports or has `loaded`; "" for others."""
    known = _latest.get((module, loaded))
    if known is None or known[0] != _stamps(known[0]):
        files = _imported([(n, _file(n)) for name in (module, *loaded) for n in _parents(name)])
        # Folders too, where a file may come to be.
        watched = {*files.values(), *(file.parent for file in files.values())}
        known = _latest[module, loaded] = _stamps(watched), _hashed(files)
    return known[1]


def _stamps(files: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    """When files were written, and their sizes; those that are gone are left out."""
    found = {}
    for file in files:
        with contextlib.suppress(OSError):
            found[file] = (file.stat().st_mtime_ns, file.stat().st_size)
    return found


def own_modules() -> set[str]:
    """The modules of the user's that this process has."""
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    return {name for name, file in files.items() if file and _own(Path(file))}


def _hashed(files: dict[str, Path]) -> str:
    parts = [f"{n} {hashlib.sha256(files[n].read_bytes()).hexdigest()}" for n in sorted(files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest() if parts else ""


def _own(file: Path) -> bool:
    whole = file.resolve()
    if {"site-packages", "dist-packages"} & set(whole.parts):
        return False
    return whole.is_file() and not any(whole.is_relative_to(folder) for folder in _LIBRARIES)


def _imported(todo: list[tuple[str, Path | None]]) -> dict[str, Path]:
    """The user's modules that some need, by name: their files as they are now."""
    found: dict[str, Path] = {}
    while todo:
        name, file = todo.pop()
        if name in found or file is None or not _own(file):
            continue
        found[name] = file
        if file.suffix == ".py":
            package = name if file.name == "__init__.py" else name.rpartition(".")[0]
            with contextlib.suppress(SyntaxError, ValueError):
                tree = ast.parse(file.read_bytes())
                todo += [(n, _file(n)) for n in _names(tree, package) if n not in found]
    return found


def _names(tree: ast.AST, package: str) -> Iterator[str]:
    """Everything that import statements may mean by a module, parents included."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            with contextlib.suppress(ImportError):
                base = resolve_name(base, package)
                names.update((base, *(f"{base}.{alias.name}" for alias in node.names)))
    for name in names:
        yield from _parents(name)


def _parents(module: str) -> list[str]:
    """A module and the packages that it is in, which are imported first."""
    parts = module.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _file(module: str) -> Path | None:
    """The file of a module, found without importing it; None for what has none."""
    path, spec = None, None
    if module.partition(".")[0] in sys.stdlib_module_names and module != "__main__":
        return None
    for name in _parents(module):
        spec = _spec(name, path)
        if spec is None:
            break
        path = spec.submodule_search_locations
    origin = spec.origin if spec else getattr(sys.modules.get(module), "__file__", None)
    return Path(origin) if origin and Path(origin).is_file() else None


def _spec(name: str, path: Any) -> ModuleSpec | None:
    with contextlib.suppress(Exception):
        return PathFinder.find_spec(name, path)
    return None


def _pieces(value: Any, seen: dict[int, Any]) -> Iterator[str]:
    """Texts that change when a value, or what it is made of, does."""
    if isinstance(value, _PLAIN):
        yield repr(value)
        return
    if id(value) in seen:
        return
    seen[id(value)] = value  # kept, or another could get its id
    if isinstance(value, partial):
        value = (value.func, value.args, value.keywords)
    elif inspect.ismethod(value):
        value = (value.__func__, value.__self__)
    elif isinstance(value, dict):
        value = [part for pair in value.items() for part in pair]
    elif isinstance(value, set | frozenset):
        value = sorted(value, key=repr)
    if isinstance(value, list | tuple):
        for part in value:
            yield from _pieces(part, seen)
        return
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__qualname__", "")
    yield name
    if isinstance(value, ModuleType):
        yield module_sha256(name)
    elif inspect.isfunction(value):
        yield _source(value) or _code(value.__code__)
        file = _file_of(value)
        yield _hashed(_imported([(value.__module__, file)])) if file else ""
        if file is None:  # of a notebook: what it names counts
            names = sorted(_named(value.__code__) & value.__globals__.keys())
            yield from _pieces([(name, value.__globals__[name]) for name in names], seen)
        cells = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        yield from _pieces([cells, value.__defaults__, value.__kwdefaults__], seen)
    elif inspect.isclass(value):
        file = _file_of(value)
        yield _hashed(_imported([(value.__module__, file)])) if file else _source(value)
        if file is None and value.__module__ in sys.modules and value.__module__ != "builtins":
            yield from _pieces([v for v in vars(value).values() if inspect.isfunction(v)], seen)
    elif not name:
        yield from _pieces(type(value), seen)
        file = _file_of(type(value))
        if type(value).__module__ != "builtins" and (file is None or _own(file)):
            yield from _pieces(getattr(value, "__dict__", None), seen)


def _file_of(value: Any) -> Path | None:
    """The file of the module of a function or a class."""
    file = getattr(sys.modules.get(value.__module__), "__file__", None)
    return Path(file) if file and Path(file).is_file() else None


def _code(code: CodeType) -> str:
    consts = [_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return " ".join((code.co_code.hex(), *code.co_names, *consts))


def _named(code: CodeType) -> set[str]:
    inner = (_named(const) for const in code.co_consts if isinstance(const, CodeType))
    return set(code.co_names).union(*inner)


def _source(value: Any) -> str:
    with contextlib.suppress(OSError, TypeError):
        return inspect.getsource(value)
    return ""


def _filled(cell: Any) -> bool:
    with contextlib.suppress(ValueError):
        return cell.cell_contents is not cell
    return False
