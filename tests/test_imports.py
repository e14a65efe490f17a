"""The rules that hold for the source as a whole, read from its syntax trees."""

import ast

import pytest

from tests.stand_in import ROOT

FOUNDATION = ("errors", "files", "typed", "config", "configs", "genotype", "genotype_history")
# Part of the package -> the parts that it may import. What is not listed (cli, commands) may import all.
MAY_IMPORT = {
    "errors": (),
    "files": ("errors",),
    "typed": ("errors",),
    "config": ("errors", "typed"),
    "configs": ("errors", "typed", "config"),
    "genotype": ("errors", "files"),
    "genotype_history": ("errors", "files", "typed", "genotype"),
    "boxes": FOUNDATION,
    "text": FOUNDATION,
    "data": (*FOUNDATION, "boxes", "text"),
    "metrics": (*FOUNDATION, "boxes", "text"),
    "models": ("errors", "config", "genotype"),
    "tasks": (*FOUNDATION, "flags", "boxes", "text", "data", "metrics", "models"),
    "engine": (*FOUNDATION, "data", "models", "tasks.base"),
    "flags": ("config", "tasks.base"),  # the latter for type checking alone
    "inference": (*FOUNDATION, "text", "data", "models", "tasks", "engine"),
}
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


def part_of(module):
    return (module.split(".") + [""])[1]


def covers(allowed, module):
    return f"{module}.".startswith(f"mmnas.{allowed}.")


@pytest.mark.parametrize("path", SOURCES, ids=dotted_name)
def test_imports_go_one_way(path):
    part = part_of(dotted_name(path))
    for module, line in imported(path) if part in MAY_IMPORT else ():
        fits = module == "mmnas" or any(covers(allowed, module) for allowed in (part, *MAY_IMPORT[part]))
        assert fits, f"{path}:{line}: {part} must not import {module}"


def test_every_listed_part_exists():
    assert set(MAY_IMPORT) <= {part_of(dotted_name(path)) for path in SOURCES}


def test_a_forbidden_import_would_be_found(tmp_path):
    source = tmp_path / "source.py"
    source.write_text("from mmnas.tasks import vqa\nfrom mmnas.tasks.base import Task\n", encoding="utf-8")
    found = [module for module, _ in imported(source)]
    assert found == ["mmnas.tasks.vqa", "mmnas.tasks.base"]
    assert [any(covers(allowed, module) for allowed in MAY_IMPORT["engine"]) for module in found] == [False, True]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_imports_the_command_line_and_its_task(path):
    task = path.stem.removeprefix("train_")
    assert {module for module, _ in imported(path)} == {"mmnas.cli", f"mmnas.tasks.{task}"}


@pytest.mark.parametrize("part", [*FOUNDATION, "text", "metrics"])
def test_what_works_without_torch_does_not_import_it(part):
    for path in SOURCES:
        if part_of(dotted_name(path)) == part:
            for node in ast.walk(tree_of(path)):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) else []
                assert not any(name.split(".")[0] == "torch" for name in names), f"{path}:{node.lineno}"


# Calls


def calls(path):
    """Yield (dotted name, keyword arguments, line) of every call; the name is cut where it is computed."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            yield ast.unparse(node.func), keywords, node.lineno


REQUIRED = {
    "torch.load": ("weights_only", "True"),
    "np.load": ("allow_pickle", "False"),
    "numpy.load": ("allow_pickle", "False"),
}
FORBIDDEN = ("eval", "exec", "exit", "quit", "os._exit", "yaml.load", "yaml.unsafe_load", "yaml.full_load")


def faults(path):
    for name, keywords, line in calls(path):
        key, value = REQUIRED.get(name, (None, None))
        if key and keywords.get(key) != value:
            yield f"line {line}: {name} without {key}={value}"
        if name in FORBIDDEN:
            yield f"line {line}: {name}"
        if name.endswith("load_state_dict") and keywords.get("strict", "True") != "True":
            yield f"line {line}: {name} with strict={keywords['strict']}"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            yield f"line {node.lineno}: star import"
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"line {node.lineno}: bare except"


@pytest.mark.parametrize("path", [*SOURCES, *SCRIPTS], ids=dotted_name)
def test_nothing_runs_what_a_file_says(path):
    assert list(faults(path)) == []


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')", "exec('1')", "exit(-1)", "torch.load(path)", "torch.load(path, weights_only=False)",
        "np.load(path)", "np.load(path, allow_pickle=True)", "model.load_state_dict(state, strict=False)",
        "from os import *", "yaml.load(text)", "try:\n    pass\nexcept:\n    pass",
    ],
)  # fmt: skip
def test_each_of_these_would_be_found(source, tmp_path):
    (tmp_path / "source.py").write_text(source, encoding="utf-8")
    assert len(list(faults(tmp_path / "source.py"))) == 1


def test_safe_calls_are_no_faults(tmp_path):
    source = "model.eval()\ntorch.load(path, weights_only=True)\nsys.exit(main())\nyaml.safe_load(text)\n"
    (tmp_path / "source.py").write_text(source, encoding="utf-8")
    assert list(faults(tmp_path / "source.py")) == []
