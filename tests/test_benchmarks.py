"""The check for GPUs runs on a CPU, too: its logic, in small sizes."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

# torch.compile has tests of its own.
SECTIONS = ["machine", "parity", "kernels", "pairs", "attention", "runs", "processes"]
SECTIONS += ["training", "scoring", "feeding", "graph"]


def check(*flags):
    command = [sys.executable, "-m", "benchmarks.gpu", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)


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
