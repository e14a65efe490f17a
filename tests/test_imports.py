"""The rules that hold for the source as a whole, read from its syntax trees."""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.stand_in import ROOT

# The rooms, from the bottom up; each may import those before it.
ROOMS = """
    version errors arrays schema files paths plain_yaml config configs genotype batch boxes text metrics data models
    detector tasks engine search run predict mmnas demo commands __main__
""".split()
TORCHLESS = (
    "version",
    "errors",
    "arrays",
    "files",
    "paths",
    "schema",
    "plain_yaml",
    "config",
    "configs",
    "genotype",
    "text",
    "metrics",
)
SOURCES = sorted((ROOT / "mmnas").rglob("*.py"))
SCRIPTS = sorted(ROOT.glob("train_*.py"))


def dotted_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def modules():
    return {dotted_name(path) for path in SOURCES} | {"mmnas.boxes.iou"}


def imported(path):
    """Yield the modules of this package that a file imports, and the line of each."""
    known = modules()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name.split(".")[0] == "mmnas")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            if node.module.split(".")[0] == "mmnas":
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    yield (whole if whole in known else node.module), node.lineno


def room_of(module):
    return module.split(".")[1] if "." in module else module


@pytest.mark.parametrize("path", SOURCES, ids=dotted_name)
def test_imports_point_down_the_rooms(path):
    room = room_of(dotted_name(path))
    for module, line in imported(path):
        above = ROOMS.index(room_of(module)) > ROOMS.index(room)
        assert not above, f"{path}:{line}: {room} must not import {module}"


def test_no_module_imports_itself_by_way_of_others():
    """Imports for types alone count, and those within functions."""
    graph = {dotted_name(path): {module for module, _ in imported(path)} for path in SOURCES}
    list(TopologicalSorter(graph).static_order())


def test_a_cycle_for_types_alone_would_be_found(tmp_path):
    source = tmp_path / "source.py"
    source.write_text("if TYPE_CHECKING:\n    from mmnas.tasks.base import Task\n", encoding="utf-8")
    assert [module for module, _ in imported(source)] == ["mmnas.tasks.base"]
    with pytest.raises(CycleError):
        TopologicalSorter({"tasks.base": {"run.flags"}, "run.flags": {"tasks.base"}}).prepare()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_imports_the_command_line_and_its_task(path):
    task = path.stem.removeprefix("train_")
    assert {module for module, _ in imported(path)} == {"mmnas.run.cli", f"mmnas.tasks.{task}"}


@pytest.mark.parametrize("room", TORCHLESS)
def test_what_works_without_torch_does_not_import_it(room):
    for path in SOURCES:
        if room_of(dotted_name(path)) == room:
            for node in ast.walk(tree_of(path)):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) else []
                assert not any(name.split(".")[0] == "torch" for name in names), f"{path}:{node.lineno}"
