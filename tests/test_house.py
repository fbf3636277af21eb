"""The house keeps its shape: docs/design.md, "The house"."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import deidcli

PACKAGE = Path(deidcli.__file__).parent
FLOORS = (
    ("errors", "version"),
    ("settings", "fields", "celeba"),
    ("weights",),
    ("processes",),
    ("faces",),
    ("crypto",),
    ("data",),
    ("training",),
    ("generator",),
    ("methods", "evaluate"),
    ("pipeline", "restore"),
    ("verify",),
    ("api",),
    ("deidentifier",),
    ("cli",),
    ("__main__",),
)
"""From the ground up. Rooms on one floor do not import each other."""
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 350, 60


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path) for path in FILES}


def imports_of(path: Path, at_load: bool = False) -> Iterator[str]:
    """The modules of the package that a file imports.

    Args:
        at_load: only those that are imported as soon as the file is, hence not by a function and
            not for type checkers alone.
    """
    tree = ast.parse(path.read_text(encoding="utf8"))
    late = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        for inner in ast.walk(node)
        if inner is not node
    }
    for node in ast.walk(tree):
        if at_load and id(node) in late:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deidcli"):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("deidcli."))


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(name) for name in MODULES} - {""}
    assert rooms <= set(FLOOR_OF), "name the new room in FLOORS and in docs/design.md"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_run_downwards_only(path: Path) -> None:
    room = room_of(name_of(path))
    if not room:  # the front door hands on what others define
        return
    for module in imports_of(path):
        other = room_of(module)
        assert other, f"{room} imports the front door; what it hands on is in its own room"
        if other != room:
            assert FLOOR_OF[other] < FLOOR_OF[room], f"{room} imports {module}"


def test_a_methods_package_imports_no_sibling() -> None:
    packages = {folder.name for folder in (PACKAGE / "methods").iterdir() if folder.is_dir()}
    for path in (PACKAGE / "methods").rglob("*.py"):
        own = path.relative_to(PACKAGE / "methods").parts[0]
        siblings = {f"deidcli.methods.{name}" for name in packages - {own}}
        if own in packages:
            assert not [m for m in imports_of(path) if any(m.startswith(s) for s in siblings)], path


def test_no_file_imports_itself_in_a_circle() -> None:
    edges = {name_of(path): set(imports_of(path, at_load=True)) for path in FILES}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in done:
            for other in edges[module] & MODULES - {module}:
                visit(other, (*way, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf8")
    assert len(text.splitlines()) <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= MOST_LINES_OF_A_FUNCTION, f"{node.name} has {lines} lines"


def test_methods_have_the_same_rooms() -> None:
    rooms = {"settings.py", "method.py", "networks.py", "losses.py", "recipe.py", "train.py"}
    for folder in (PACKAGE / "methods").iterdir():
        if folder.is_dir() and folder.name != "__pycache__":
            assert rooms <= {path.name for path in folder.iterdir()}, folder.name
