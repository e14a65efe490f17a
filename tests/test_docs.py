"""What the documents name exists: files, tests and flags."""

import ast
import json
import re

import pytest

from mmnas.genotype import OPERATIONS, Genotype
from mmnas.models.cost import operation_cost
from mmnas.models.operations import Sizes
from mmnas.run.cli import main
from mmnas.search.drawing import PAPER_NAMES
from mmnas.tasks import TASKS, task_named
from tests.stand_in import ROOT

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("data*/*.md"))]
LONGEST_README = 150


def text_of(path):
    return path.read_text(encoding="utf-8")


def name_of(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_to_files(path):
    for target in re.findall(r"\]\(([^)#:]+)\)", text_of(path)):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_sources_and_tests_that_are_named_exist(path):
    for source in re.findall(r"`((?:mmnas|tests|benchmarks|docs)/[\w/.-]+)`", text_of(path)):
        assert (ROOT / source).exists(), source


def test_the_index_lists_every_page():
    index = text_of(ROOT / "docs/README.md")
    for path in (ROOT / "docs").glob("*.md"):
        assert f"({path.name})" in index or path.name == "README.md"


def test_the_readme_is_short():
    assert len(text_of(ROOT / "README.md").splitlines()) <= LONGEST_README


def test_every_test_of_a_guarantee_exists():
    """In docs/reliability.md, `FILE::TEST`, or `::TEST` in the file named before it."""
    found, file = [], None
    for path, test in re.findall(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`", text_of(ROOT / "docs/reliability.md")):
        file = path or file
        if test:
            functions = {node.name for node in ast.parse(text_of(ROOT / file)).body if hasattr(node, "name")}
            assert test in functions, f"{file}::{test}"
            found.append(test)
    assert len(found) > 30


def flags_of(task, capsys):
    """The flags of a task's script, as its --help shows them."""
    with pytest.raises(SystemExit):
        main(task_named(task), ["--help"])
    return set(re.findall(r"--[A-Z_]+", capsys.readouterr().out))


def test_every_flag_is_explained_and_no_other(capsys):
    known = {flag for task in TASKS for flag in flags_of(task, capsys)}
    assert known <= set(re.findall(r"`(--[A-Z_]+)`", text_of(ROOT / "docs/flags.md")))
    for path in DOCUMENTS:
        named = set(re.findall(r"(?<![\w-])--[A-Z_]+\b", text_of(path)))
        assert named <= {*known, "--FLAG"}, name_of(path)


def test_the_page_on_genotypes_lists_every_operation_with_its_cost():
    """Millions of parameters, and of multiply-adds over 14 tokens and over 100 regions, at hidden size 512."""
    page, sizes = text_of(ROOT / "docs/genotypes.md"), Sizes(512, relation_size=64)
    rows = {}
    for name, spec in OPERATIONS.items():
        regions = operation_cost(name, sizes, positions=100, memory=14)
        tokens = "-" if spec.reads else f"{operation_cost(name, sizes, positions=14).multiply_adds / 1e6:.1f}"
        figures = (f"{regions.parameters / 1e6:.2f}", tokens, f"{regions.multiply_adds / 1e6:.1f}")
        rows[name] = (PAPER_NAMES.get(name, ""), *figures)
    found = re.findall(r"^\| `(\w+)` \| (\w*) ?\| .* \| ([\d.]+) \| ([\d.-]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert {name: tuple(row) for name, *row in found} == rows
    example = json.loads(re.search(r"```json\n(.*?)```", page, re.DOTALL)[1])
    assert Genotype.from_dict(example["epoch0"]).decoder[1] == ("guided_att_64", "sep_conv_3")
