"""The architecture, as rules: who may import whom, no circles, docstrings, sizes. docs/architecture.md has the
reasons.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx as nx
import pytest
from attrs import frozen

ROOT = Path(__file__).parents[1]
ROOMS = {
    "ir": {"ir"},
    "ops": {"ir", "ops"},
    "fuse": {"ir", "ops", "fuse"},
    "targets": {"ir", "ops", "fuse", "targets"},
    "contrib": {"ir", "ops", "fuse", "targets", "contrib"},
}
"""What each folder may import from. The face (fusewire/) may import from all, and nobody imports the face."""

LINES = 500
LONG: dict[str, str] = {}
"""Files that may be longer than LINES, and why."""


@frozen
class Import:
    """One import statement inside of the package: `name` is the imported module, e.g. "targets.lower"."""

    name: str
    line: int
    inside_function: bool


@frozen
class Module:
    """One file: `name` is its dotted name below fusewire, e.g. "ir.expr"; "" for fusewire itself."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def room(self) -> str:
        first = self.name.split(".")[0]
        return first if first in ROOMS else "face"


@cache
def modules() -> dict[str, Module]:
    found = {}
    for folder in (*ROOMS, "fusewire"):
        base = ROOT if folder in ROOMS else ROOT / "fusewire"
        for path in sorted((ROOT / folder).rglob("*.py")):
            inner = path.relative_to(base)
            if folder == "fusewire" and inner.parts[0] in ROOMS:  # the links to the other folders
                continue
            parts = inner.parent.parts if path.name == "__init__.py" else inner.with_suffix("").parts
            name = ".".join(parts)
            found[name] = Module(name, path, ast.parse(path.read_text(encoding="utf-8")))
    return found


def type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def statements(node: ast.AST, inside: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Every node that runs, and whether it stands in a function; what is for type checkers only is left out."""
    for child in ast.iter_child_nodes(node):
        if type_checking(child):
            continue
        yield child, inside
        yield from statements(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def imports(module: Module) -> list[Import]:
    """The modules of the package that a module imports by relative imports."""
    found = []
    for node, inside in statements(module.tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            here = module.name.split(".") if module.name else []
            up = node.level - (1 if module.is_package else 0)
            base = here[: len(here) - up] + (node.module.split(".") if node.module else [])
            package = ".".join(base)
            for alias in node.names:
                deeper = f"{package}.{alias.name}" if package else alias.name
                found.append(Import(deeper if deeper in modules() else package, node.lineno, inside))
    return found


def names() -> list[str]:
    return sorted(modules())


def test_every_folder_is_seen() -> None:
    rooms = {module.room for module in modules().values()}
    assert rooms == {*ROOMS, "face"}
    assert {"", "ir.expr", "targets.schedules.conv", "testing"} <= modules().keys()


@pytest.mark.parametrize("name", names())
def test_imports_run_one_way(name: str) -> None:
    module = modules()[name]
    if module.room == "face":
        return
    allowed = ROOMS[module.room]
    wrong = [i for i in imports(module) if i.name.split(".")[0] not in allowed]
    assert not wrong, f"{module.room} may import from {sorted(allowed)} only"


@pytest.mark.parametrize("name", names())
def test_imports_are_relative_and_at_the_top(name: str) -> None:
    module = modules()[name]
    absolute = [
        node.lineno
        for node, _ in statements(module.tree)
        if (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "fusewire")
        or (isinstance(node, ast.Import) and any(a.name.split(".")[0] == "fusewire" for a in node.names))
    ]
    assert not absolute, "inside of the package imports are relative"
    late = [i for i in imports(module) if i.inside_function]
    assert not late, "an import inside of a function hides a circle; only optional third-party packages load late"


def test_no_import_circles() -> None:
    graph = nx.DiGraph()
    for name, module in modules().items():
        for target in imports(module):
            assert target.name in modules(), f"{name} line {target.line} imports {target.name!r}, which does not exist"
            if target.name != name:
                graph.add_edge(name, target.name)
    circles = [c for c in nx.strongly_connected_components(graph) if len(c) > 1]
    assert not circles


def is_overload(node: ast.FunctionDef | ast.ClassDef) -> bool:
    return any(isinstance(d, ast.Name) and d.id == "overload" for d in node.decorator_list)


@pytest.mark.parametrize("name", names())
def test_public_things_have_docstrings(name: str) -> None:
    module = modules()[name]
    assert ast.get_docstring(module.tree), "no module docstring"
    public = [
        node
        for node in module.tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and not is_overload(node)
    ]
    assert not [node.name for node in public if not ast.get_docstring(node)]


@pytest.mark.parametrize("name", names())
def test_files_are_of_readable_size(name: str) -> None:
    path = modules()[name].path
    lines = len(path.read_text(encoding="utf-8").splitlines())
    key = str(path.relative_to(ROOT))
    if key in LONG:
        assert lines > LINES, f"{key} is short now: take it off the list"
    else:
        assert lines <= LINES, f"{lines} lines: split it, or give a reason in LONG"
