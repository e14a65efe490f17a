"""The benchmarks run, in small sizes; the check for GPUs does on a CPU, too."""

import importlib
import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# torch.compile has tests of its own.
SECTIONS = ["machine", "parity", "kernels", "pairs", "attention", "runs", "processes"]
SECTIONS += ["training", "scoring", "feeding", "graph"]


def run(*command):
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=240)


def check(*flags):
    return run("-m", "benchmarks.gpu", *flags)


@pytest.mark.slow
def test_the_check_for_gpus_passes_on_a_cpu(tmp_path):
    report = tmp_path / "report.txt"
    done = check("--device=cpu", f"--only={','.join(SECTIONS)}", f"--out={report}")
    assert done.returncode == 0, done.stdout + done.stderr
    said = report.read_text()
    assert [line[3:] for line in said.splitlines() if line.startswith("== ")] == SECTIONS
    assert "all passed" in said and "FAIL" not in said
    for row in ("vqa training, batch 3, bf16, joined kernels", "itm scoring", "loader, float16, device"):
        assert f"| {row}" in said


def test_a_section_that_is_not_there_is_named():
    done = check("--device=cpu", "--only=speed")
    assert done.returncode == 1 and done.stderr.startswith("error: no section speed; there are machine, parity")


@pytest.mark.slow
def test_all_comparisons_with_the_published_way_run():
    done = run("benchmarks/run.py", "--quick", "--threads=1")
    assert done.returncode == 0, done.stderr
    works = [
        line.split("|")[1].strip() for line in done.stdout.splitlines() if "samples/s" in line or "/s " in line
    ]
    assert len(works) == 6 and {"VQA training step", "VQA scoring", "VGD training step", "ITM scoring"} < {*works}


def test_the_start_of_a_run_is_measured():
    done = run("-m", "benchmarks.startup", "--scale=0.0005")
    assert done.returncode == 0, done.stderr
    assert "answers" in done.stdout and "peak (GB)" in done.stdout


@pytest.mark.parametrize("name", ["memory", "retrieval_memory"])
def test_memory_is_measured(name, tmp_path):
    importlib.import_module(f"benchmarks.{name}").write_data(tmp_path, 20)
    done = run("-m", f"benchmarks.{name}", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["peak"] > 0
