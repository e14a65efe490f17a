"""Every command of the README runs, with a network small enough for a test."""

import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

import mmnas
from mmnas.__main__ import main as mmnas_main
from mmnas.demo.demos import DEMOS, demo
from mmnas.tasks import TASKS
from tests.conftest import ROOT, Workplace

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"^```\n(.*?)^```", README, re.S | re.M)
    for line in block.splitlines()
    if re.match(r"(make|python3|torchrun|source|mmnas) ", line)
] + re.findall(r"`((?:make|python3|torchrun|source|mmnas) [^`\n]*)`", README)


def test_every_kind_of_command_is_known():
    kinds = {" ".join(shlex.split(command)[:2]) for command in COMMANDS}
    assert kinds == {
        "make demo", "make test", "make install", "source .venv/bin/activate", "python3 train_vqa.py",
        "python3 train_vgd.py", "python3 train_itm.py", "python3 -m", "torchrun --nproc_per_node=4", "mmnas train",
        "mmnas demo", "mmnas plot-search", "mmnas show-arch", "mmnas check-data", "mmnas pack-features",
        "mmnas check-submission", "mmnas make-world", "mmnas report", "mmnas export", "mmnas predict",
    }  # fmt: skip


def test_make_targets_are_there():
    for command in {command for command in COMMANDS if command.startswith("make")}:
        planned = subprocess.run(
            [*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert ".venv" in planned.stdout or "up to date" in planned.stdout or "Nothing" in planned.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "runs", "results"),
    [
        (
            "vqa",
            "train train val test search plot-search show-arch train "
            "check-data pack-features train check-submission report export val",
            ["val/result_run_mine", "test/result_run_mine"],
        ),
        ("vgd", "train test", ["test/result_run_ground_testA", "test/result_run_ground_testB"]),
        ("itm", "train test", ["test/result_run_match"]),
    ],
)
def test_the_runs_in_their_order(tmp_path, world, run, task, runs, results):
    """Every command of a task as the README has it, with a small network, on the demo world as ./data."""
    place, done = Workplace(tmp_path, world, task), []
    lay_out_data(tmp_path / "data", world)
    for command in COMMANDS:
        words = shlex.split(command)
        if words[1] == f"train_{task}.py" and "--help" not in words:
            done.append(run_script(place, run, words[2:]))
        elif words[:3] == ["mmnas", "train", task]:
            done.append(run_script(place, run, words[3:]))
        elif task == "vqa" and words[0] == "mmnas" and words[1] not in ("demo", "make-world", "predict"):
            assert mmnas_main(words[1:]) == 0, command
            done.append(words[1])
    assert " ".join(done) == runs
    for name in results:
        for kind in ("json", "meta.json"):
            assert (tmp_path / f"logs/ckpts/result_{name}.{kind}").is_file()


def lay_out_data(folder, world):
    """Make `folder` hold what the demo world holds, and room for more."""
    folder.mkdir()
    for path in world.iterdir():
        (folder / path.name).symlink_to(path)


def run_script(place, run, flags):
    """Run a script's command with a small network where it makes one; return what --RUN asked for."""
    flags = [flag for flag in flags if not flag.startswith("--GPU")] + ["--GPU=cpu"]
    asked = flags[0].removeprefix("--RUN=")
    if asked == "search" or any(flag.startswith("--GENO_PATH") for flag in flags):
        flags += place.sizes
    elif asked == "train" and "--RESUME" not in flags:
        flags += place.settings
    result = run(place, *flags, "--DATA_PATH=data")
    assert result.code == 0, (flags, result.output)
    return asked


@pytest.mark.slow
def test_torchrun(place):
    command = next(command for command in COMMANDS if command.startswith("torchrun"))
    words = shlex.split(command.replace("=4", "=2"))[1:]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    flags = [word for word in words[2:] if word.startswith("--")] + [*place.settings, "--MAX_EPOCH=1"]
    process = place.script(*flags, launcher=[*launcher, words[0]])
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output


def test_make_world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = next(command for command in COMMANDS if "make-world" in command)
    words = shlex.split(command.replace("--images 400", "--images 20"))
    assert mmnas_main(words[1:]) == 0
    assert (tmp_path / words[2] / "vqa").is_dir()


def test_the_demos_are_there():
    demos = {shlex.split(command)[2] for command in COMMANDS if command.startswith("mmnas demo")}
    assert demos <= {*DEMOS, "search"}


def test_the_module_is_run_as_the_command(capsys):
    command = next(command for command in COMMANDS if command.startswith("python3 -m"))
    with pytest.raises(SystemExit) as stopped:
        mmnas_main(shlex.split(command)[3:])
    assert stopped.value.code == 0 and capsys.readouterr().out.startswith("usage: mmnas")


def test_help_lists_the_flags_of_the_readme(run, tmp_path, world, capsys):
    shown = ""
    for task in TASKS:
        with pytest.raises(SystemExit) as stopped:
            run(Workplace(tmp_path, world, task), "--help")
        assert stopped.value.code == 0
        shown += capsys.readouterr().out
    for flag in re.findall(r"`(--[A-Z_]+)", README):
        assert flag in shown


def test_python_example(trained, place, monkeypatch):
    """The block as it stands, with one image's arrays and the trained run in place of the demo's."""
    code = re.search(r"^```python\n(.*?)^```", README, re.S | re.M)[1]
    path = trained.checkpoint("base", "epoch2.pkl")
    code = re.sub(r'load\(".*?"\)', f'load("{path}")', code)
    with np.load(next((place.data / "coco_extract/val2014").glob("*.npz"))) as file:
        names = {"features": file["x"].T, "boxes": file["bbox"]}
    exec(code, names)
    assert names["logits"].shape == (1, len(names["model"].vocabularies["answers"]))
    assert names["mmnas"] is mmnas


@pytest.mark.slow
def test_the_demo_of_a_search_ends_with_its_table(tmp_path, monkeypatch, place, capfd):
    monkeypatch.chdir(tmp_path)
    flags = [f"--CFG={place.folder}/deep.yml", "--MAX_EPOCH=2"]
    assert demo("search", images=40, flags=flags) == 2  # no such file
    (place.folder / "deep.yml").write_text((place.folder / "small.yml").read_text().split("search:")[0])
    assert demo("search", images=40, flags=flags) == 0
    shown = capfd.readouterr().out
    table = shown[shown.index("genotype    accuracy") :]
    for row in ("searched", "MCAN", "random 1", "random 2", "demo_search.json"):
        assert row in table
    assert "SA FFN SA FFN | SA GA FFN SA GA FFN" in table  # MCAN's pattern at the depth of the tiny search


@pytest.mark.slow
def test_demo_ends_with_its_table(tmp_path, monkeypatch, place, capfd):
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    assert demo("vqa", images=40, flags=[f"--CFG={place.folder}/small.yml", "--MAX_EPOCH=1"]) == 0
    shown = capfd.readouterr().out
    table = shown[shown.index("VQA accuracy on val") :]
    for row in ("overall", "yes/no", "number", "other", "prior", "checkpoint: logs", "results:    logs"):
        assert row in table
    assert (tmp_path / "logs/ckpts/result_test/result_run_demo_vqa.json").is_file()
