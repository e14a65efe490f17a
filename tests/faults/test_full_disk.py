"""A disk that takes no more: one line, earlier files as they were, nothing half-written.

The limit on the size of a file stands for the disk; `tests/engine/test_checkpoint.py` has it for checkpoints, and
`tests/data/test_store_writer.py` for feature stores.
"""

import os
import resource
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.faults.killing import unfinished


def limited(limit):
    """Options of a process whose files can have so many bytes at most."""
    return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))}


def output_of(process, code):
    output, _ = process.communicate(timeout=240)
    assert process.returncode == code, output
    assert "Traceback" not in output
    return output


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def scored(trained, place, run):
    """A workplace in which "base" of `trained` was scored, and the flags that score it again."""
    flags = ["--RUN=val", f"--CKPT_PATH={trained.checkpoint('base', 'epoch2.pkl')}", "--VERSION=v"]
    assert run(place, *flags).code == 0
    return place, flags


def test_a_result_that_cannot_be_written_leaves_the_earlier_one(scored):
    place, flags = scored
    folder = place.folder / "logs/ckpts/result_val"
    before, log = contents(folder), place.folder / "logs/log/log_run_v.txt"
    limit = len(before["result_run_v.json"]) - 1
    log.unlink()
    output = output_of(place.script(*flags, **limited(limit)), 2)
    assert output.count("error") == 1
    assert "error: logs/ckpts/result_val/result_run_v.json: File too large; check the path" in output
    assert contents(folder) == before and not unfinished(folder)


def test_a_log_that_cannot_be_written_is_said_once_and_stops_nothing(scored):
    place, flags = scored
    log = place.folder / "logs/log/log_run_v.txt"
    with open(log, "r+b") as file:
        file.truncate(2**22)
    output = output_of(place.script(*flags, **limited(2**22)), 0)
    assert output.count("log_run_v.txt cannot be written") == 1 and "File too large" in output
    assert log.stat().st_size == 2**22
    assert "overall" in output


@pytest.mark.parametrize("name", ["logs/ckpts/arch/found.json", "logs/log/search_found.json"])
def test_what_a_search_found_is_kept_when_it_cannot_be_written_anew(place, run, name):
    """A search that goes on writes genotypes and history of the epochs behind it before its next step."""
    assert run(place, *place.search_flags("found", "--MAX_EPOCH=1")).code == 0
    path = place.folder / name
    before = path.read_bytes()
    process = place.script("--RUN=search", "--RESUME", "--VERSION=found", **limited(len(before) - 1))
    output = output_of(process, 2)
    assert f"error: {name}: File too large" in output and output.count("error") == 1
    assert path.read_bytes() == before and not unfinished(path.parent)


def test_scalars_that_cannot_be_written_are_said_once(tmp_path):
    """In a process of its own, since the limit stays."""
    command = [sys.executable, "-c", SCALARS, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr.count("cannot be written") == 1
    assert len(done.stderr.splitlines()) == 1


SCALARS = """
import resource, sys, time
from pathlib import Path
from mmnas.engine.logging import Scalars, start_logging
start_logging(0)
resource.setrlimit(resource.RLIMIT_FSIZE, (60, resource.RLIM_INFINITY))
scalars = Scalars(Path(sys.argv[1]), 0)
for step in range(4):
    scalars.add({"train/loss": 1.0}, step)
    time.sleep(0.05)
scalars.close()
"""


def test_an_export_that_cannot_be_written_leaves_nothing(trained, tmp_path):
    command = [sys.executable, "-m", "mmnas", "export", str(trained.checkpoint("base", "epoch2.pkl")), "model"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **limited(100_000)}
    output = output_of(
        subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, **options), 2
    )
    assert output.startswith("error: ") and output.count("\n") == 1
    assert "model.safetensors: File too large" in output and not list(tmp_path.iterdir())
