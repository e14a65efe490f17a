"""What an installed package holds: everything that is needed to run from any folder."""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from mmnas.errors import ConfigError
from mmnas.genotype import find_genotype, read_genotype, shipped_genotypes
from tests.stand_in import ROOT, SHIPPED_GENOTYPES

SOURCES = ("pyproject.toml", "setup.py", "requirements.txt", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy of the sources, so that nothing is left in this folder.

    Without a compiler, which saves the time to build the optional extension; the development install builds it.
    """
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "mmnas", folder / "mmnas", ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.c"))
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", f"--wheel-dir={folder}/out", folder, CC="false")
    return next((folder / "out").glob("*.whl"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory, wheel):
    """A folder in which the wheel is installed alone."""
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--no-index", "--target", folder, wheel)
    return folder


def pip(*arguments, **environment):
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)
    assert done.returncode == 0, done.stderr


def call(installed, folder, *arguments):
    """Run the installed `mmnas` in `folder`, where this project's own folder is not on the path."""
    return subprocess.run(
        [installed / "bin" / "mmnas", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_wheel_holds_all_files_of_the_package(wheel):
    kinds = ("*.py", "*.yml", "*.json", "*.pyx", "*.html", "*.md")
    expected = {str(path.relative_to(ROOT)) for kind in kinds for path in (ROOT / "mmnas").rglob(kind)}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.endswith((".so", ".pyd"))}
    assert {name for name in held if ".dist-info/" not in name} == expected


def test_the_requirements_of_a_wheel_are_lower_bounds(wheel):
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith("METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    needed = [line for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert needed and all(">=" in line and "," not in line for line in needed)
    assert not any("cython" in line.lower() for line in needed)


def test_an_installed_mmnas_runs_anywhere(installed, tmp_path):
    shown = call(installed, tmp_path)
    assert shown.returncode == 0 and shown.stdout.startswith("usage: mmnas"), shown.stderr
    shown = call(installed, tmp_path, "show-arch", "train_vqa")
    assert shown.returncode == 0 and "12 blocks" in shown.stdout, shown.stderr
    shown = call(installed, tmp_path, "train", "vqa", "--RUN=train", "--GENO_PATH=train_vqa", "--GPU=cpu")
    assert shown.returncode == 2, shown.stderr  # the genotype is found; what is missing is the data
    assert "error: questions of train not found" in shown.stderr


# Shipped genotypes


def test_a_shipped_genotype_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert set(shipped_genotypes()) == {*SHIPPED_GENOTYPES, "demo"}
    for name, path in shipped_genotypes().items():
        assert read_genotype(name) == read_genotype(path)


def test_an_existing_file_comes_before_a_shipped_genotype(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = {"epoch0": {"enc": [["skip_connect"]], "dec": [["gelu"]]}}
    (tmp_path / "train_vqa").write_text(json.dumps(own), encoding="utf-8")
    assert read_genotype("train_vqa").to_dict() == own["epoch0"]


@pytest.mark.parametrize("name", ["train_vqq", "absent.json", "../genotypes/demo", "demo.json"])
def test_an_unknown_genotype_is_one_line_with_the_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="^genotype file not found: .*; shipped ones: demo, mcan, train_itm"):
        find_genotype(name)


@pytest.mark.parametrize("name", [*SHIPPED_GENOTYPES, "demo"])
def test_the_old_paths_of_the_shipped_genotypes_hold(name):
    assert read_genotype(ROOT / f"logs/ckpts/arch/{name}.json") == read_genotype(name)
