"""Reads the project's source without running it; `tests/test_architecture.py` says what must hold of it."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("envs", "planning", "worldmodel")


@dataclasses.dataclass(frozen=True)
class Module:
    """One Python file.

    Attributes:
        name: dotted, for example `planning.optimisers.cem`; a package's `__init__` has the package's name.
        is_package: whether it is an `__init__`.
        text: its source.
        tree: the same, parsed.
    """

    name: str
    is_package: bool
    text: str
    tree: ast.Module

    @classmethod
    def parse(cls, name: str, text: str, is_package: bool = False) -> Module:
        return cls(name, is_package, text, ast.parse(text))

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]


def read_modules(root: Path = ROOT) -> dict[str, Module]:
    """All modules of the three packages, by name."""
    modules = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            modules[name] = Module.parse(name, path.read_text(), is_package)
    return modules


def imports(module: Module, at_load_only: bool = False) -> set[str]:
    """Dotted names that `module` imports: for `from a.b import c` both `a.b` and `a.b.c`, since c may be a module.

    Args:
        module: where to look.
        at_load_only: leave out what only runs inside functions or for the type checker.
    """
    found: set[str] = set()
    for node in _load_time_nodes(module.tree) if at_load_only else ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(module, node)
            found |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and _called(node) in ("importlib.import_module", "import_module", "__import__"):
            found |= {a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return found


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    parents = module.name.split(".")
    parents = parents[: len(parents) - node.level + (1 if module.is_package else 0)]
    return ".".join([*parents, *([node.module] if node.module else [])])


def _load_time_nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _load_time_nodes(child)


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else ""


def room_of(name: str, rooms: Iterable[str]) -> str | None:
    """The innermost of `rooms` that holds the module `name`, or None."""
    holding = [room for room in rooms if name == room or name.startswith(f"{room}.")]
    return max(holding, key=len, default=None)


def crossings(modules: Mapping[str, Module], rooms: Mapping[str, Iterable[str]], free: Iterable[str] = ()) -> list[str]:
    """Imports from one room into another that it may not enter: `planning.optimisers.cem imports worldmodel.models`.

    Args:
        modules: where to look.
        rooms: every room (a package or a single module) and the rooms that it may import.
        free: modules that may enter every room.
    """
    may_enter, found = {room: {room, *entered} for room, entered in rooms.items()}, set()
    for module in modules.values():
        here = room_of(module.name, rooms)
        if here is None or module.name in set(free):
            continue
        for name in imports(module):
            there = room_of(name, rooms) if name.partition(".")[0] in PACKAGES else None
            if there is not None and there not in may_enter[here]:
                found.add(f"{module.name} imports {there}")
    return sorted(found)


def long_functions(modules: Iterable[Module], most_lines: int) -> list[str]:
    """Functions of more than `most_lines` lines, from `def` to their end: `planning.cem:62 plan has 71 lines`."""
    return [
        f"{module.name}:{node.lineno} {node.name} has {length} lines"
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > most_lines
    ]


def find_cycle(modules: Mapping[str, Module]) -> list[str]:
    """Names of modules that import each other in a circle while they load, or nothing."""
    graph = {
        name: sorted(i for i in imports(module, at_load_only=True) if i in modules and i != name)
        for name, module in modules.items()
    }
    finished: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in finished:
            return []
        for following in graph[name]:
            cycle = visit(following, [*path, name])
            if cycle:
                return cycle
        finished.add(name)
        return []

    return next((cycle for name in graph if (cycle := visit(name, []))), [])


def forbidden_calls(module: Module) -> list[str]:
    """What no library module does: print, unpickle, run text, tie itself to a device, seed what others use."""
    found = []
    restricted = {base for node in ast.walk(module.tree) for base in _bases_of_restricted(node)}
    for node in ast.walk(module.tree):
        if node in restricted:
            continue
        where = f"{module.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"{where} bare except")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"cuda:\d+", node.value):
            found.append(f"{where} {node.value} hard-coded")
        elif isinstance(node, ast.Call):
            found += [f"{where} {what}" for what in _forbidden_call(node)]
        elif isinstance(node, ast.Attribute | ast.ImportFrom):
            found += [f"{where} uses {name}" for name in _pickling(node)]
    return found


def _bases_of_restricted(node: ast.AST) -> list[ast.expr]:
    """The bases of a class that decides itself which names a pickle may use."""
    is_restricted = isinstance(node, ast.ClassDef) and any(
        isinstance(part, ast.FunctionDef) and part.name == "find_class" for part in node.body
    )
    return node.bases if is_restricted else []


def _pickling(node: ast.Attribute | ast.ImportFrom) -> list[str]:
    """Everything of the modules that can run a stranger's code, except the error that torch.load raises."""
    if isinstance(node, ast.Attribute):
        names = [ast.unparse(node)]
    else:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    unpicklers = ("pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve")
    return [n for n in names if n.partition(".")[0] in unpicklers and n != "pickle.UnpicklingError"]


def _forbidden_call(node: ast.Call) -> Iterator[str]:
    name = _called(node)
    keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
    if name in (
        "print",
        "eval",
        "exec",
        "np.random.seed",
        "numpy.random.seed",
        "random.seed",
        "hydra.utils.instantiate",
    ):
        yield f"calls {name}"
    if name.endswith(".cuda") and not name.endswith("torch.cuda"):
        yield "calls .cuda(): take a device instead"
    if name.endswith("torch.load") and keywords.get("weights_only") != "True":
        yield "calls torch.load without weights_only=True"
    if keywords.get("allow_pickle", "False") != "False":
        yield f"calls {name} with allow_pickle"


def third_party_imports(modules: Iterable[Module], standard_library: Iterable[str]) -> set[str]:
    """First part of every imported name that is neither ours nor Python's own."""
    names = {name.partition(".")[0] for module in modules for name in imports(module)}
    return names - set(standard_library) - set(PACKAGES) - {""}
