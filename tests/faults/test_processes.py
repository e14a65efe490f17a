"""A worker or a process of a group that dies: the run stops with one line, and nobody stays behind."""

import os
import resource
import signal
import sys
import time
from pathlib import Path

import pytest

from mmnas.engine.checkpoint import checkpoints_in, load_checkpoint
from tests.conftest import ROOT, Workplace, with_shared_memory
from tests.engine.test_distributed import TORCHRUN

MINUTE = 60
HANGING = Path(__file__).with_name("hanging.py")
pytestmark = pytest.mark.slow


def parents():
    """The parent of every process of this machine."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            rest = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if rest[0] != "Z":
            found[int(path.parent.name)] = int(rest[1])
    return found


def descendants(pid):
    """The processes that a process has started, and those that these have; the first started first."""
    table, found = parents(), [pid]
    for process in found:
        found += sorted(child for child, parent in table.items() if parent == process)
    return found[1:]


def named(pids, text):
    """Those of the processes whose command line holds `text`."""
    return [pid for pid in pids if text in Path(f"/proc/{pid}/cmdline").read_text()]


def wait_for_epoch(place, process):
    log, end = place.folder / "logs/log/log_run_x.txt", time.monotonic() + 240
    while not (log.exists() and "epoch 1: loss" in log.read_text()):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.02)


def assert_all_end(pids, since):
    while any(pid in parents() for pid in pids):
        assert time.monotonic() < since + MINUTE
        time.sleep(0.1)


def assert_checkpoints_intact(place):
    found = checkpoints_in(place.checkpoint("x", "").parent / "ckpt_x")
    assert found
    for path in found:
        assert load_checkpoint(path).epoch >= 1


def wait_for_hanging(place, process):
    end_of_wait = time.monotonic() + 3 * MINUTE
    while not (place.folder / "hangs").exists():
        if process.poll() is not None or time.monotonic() > end_of_wait:
            process.terminate()  # it would not end by itself
            pytest.fail(process.communicate(timeout=MINUTE)[0])
        time.sleep(0.05)
    time.sleep(0.5)


@pytest.fixture
def long_run(place):
    """Start a long run of short epochs, wait for its first; end what is left of it after the test."""
    started = []

    def start(*flags, **options):
        process = place.script(*place.train_flags("x", "--MAX_EPOCH=400", *flags), **options)
        started.append(process)
        wait_for_epoch(place, process)
        started.extend(descendants(process.pid))
        return process

    yield start
    for each in started:
        pid = each if isinstance(each, int) else each.pid
        if pid in parents():
            os.kill(pid, signal.SIGKILL)


def test_a_dead_worker_stops_the_run_in_one_line(place, long_run):
    process = long_run("--NW=1")
    (worker, *_), since = descendants(process.pid), time.monotonic()
    os.kill(worker, signal.SIGKILL)
    output, _ = process.communicate(timeout=MINUTE)
    assert process.returncode == 2, output
    assert output.count("error: ") == 1 and f"error: data loading worker (process {worker}) " in output
    assert "--RESUME" in output and "Traceback" not in output
    assert_all_end([worker], since)
    assert_checkpoints_intact(place)


@pytest.mark.parametrize(("limit", "flags"), [(28, ["--NW=2"]), (64, ["--NW=8"]), (28, ["--GPU=cpu,cpu"])])
def test_too_few_open_files_end_a_run_in_one_line(place, limit, flags):
    def lower():
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    process = place.script(*place.train_flags("x", *flags), preexec_fn=lower)
    output, _ = process.communicate(timeout=MINUTE)
    assert process.returncode == 2, output
    assert output.count("error: ") == 1 and "Traceback" not in output
    assert "open files are needed" in output and "ulimit -n" in output
    assert "--NW" in output or "one device" in output


@pytest.mark.parametrize(
    ("task", "flags", "said"),
    [("itm", ["--NW=0"], "best on val"), ("itm", ["--NW=1"], "--NW=0"), ("vqa", ["--GPU=cpu,cpu"], "one device")],
)
def test_a_full_shared_memory_ends_only_runs_that_need_it(tmp_path, few_images, task, flags, said):
    place = Workplace(tmp_path, few_images, task)
    launcher = [*with_shared_memory("size=4k,nr_inodes=1"), sys.executable]
    process = place.script(*place.train_flags("x", "--MAX_EPOCH=1", *flags), launcher=launcher)
    output, _ = process.communicate(timeout=MINUTE)
    assert said in output and "Traceback" not in output
    assert output.count("error: ") == (process.returncode == 2)


def test_a_dead_process_of_a_group_stops_the_others(place, long_run):
    process = long_run("--GPU=cpu,cpu", "--NW=1")
    everyone, since = descendants(process.pid), time.monotonic()
    ranks = sorted(named([pid for pid, parent in parents().items() if parent == process.pid], "spawn_main"))
    assert len(ranks) == 2
    os.kill(ranks[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=MINUTE)
    assert process.returncode == 2, output
    assert "error: process 0 of the run died (SIGKILL), the others are stopped" in output, output
    assert output.count("error: ") == 1 and "--RESUME" in output and "Traceback" not in output
    assert_all_end(everyone, since)
    assert_checkpoints_intact(place)


def test_a_dead_process_of_torchrun_stops_the_others(place, long_run):
    process = long_run(launcher=TORCHRUN)
    everyone, since = descendants(process.pid), time.monotonic()
    os.kill(named(everyone, "train_vqa.py")[-1], signal.SIGKILL)
    output, _ = process.communicate(timeout=MINUTE)
    assert process.returncode != 0
    assert_all_end(everyone, since)
    assert "SIGKILL" in output or "Signal 9" in output, output
    assert_checkpoints_intact(place)


@pytest.mark.parametrize(
    ("samples", "batches", "end"), [(576, 3, "0 epochs and 3 steps"), (192, 0, "1 epochs and 0 steps")]
)
def test_a_signal_ends_a_group_of_which_one_waits_for_a_worker(place, run, samples, batches, end):
    """In training, and in scoring val after it."""
    environment = {"HANG": f"{samples} {batches}", "PYTHONPATH": str(ROOT)}
    flags = place.train_flags("x", "--GPU=cpu,cpu", "--NW=1")
    process = place.script(*flags, launcher=[sys.executable, str(HANGING)], environment=environment)
    wait_for_hanging(place, process)
    everyone, since = descendants(process.pid), time.monotonic()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=MINUTE)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert f"stopped after {end}" in output.splitlines()[-1] and "Traceback" not in output
    assert_all_end(everyone, since)
    assert run(place, "--RUN=train", "--RESUME", "--VERSION=x", "--GPU=cpu,cpu").code == 0


def test_a_killed_launcher_leaves_no_process_behind(place, long_run):
    process = long_run("--GPU=cpu,cpu", "--NW=1")
    everyone, since = descendants(process.pid), time.monotonic()
    process.kill()
    assert_all_end(everyone, since)
    assert_checkpoints_intact(place)


@pytest.mark.parametrize("flag", ["--SEARCH=random", "--CHOOSE=2"])
def test_a_signal_ends_a_search_that_waits_for_its_held_out_part(tmp_path, few_images, flag):
    """The epoch is saved; what follows it is done on resuming."""
    place = Workplace(tmp_path, few_images)
    environment = {"HANG": "58 0", "PYTHONPATH": str(ROOT)}
    flags = place.search_flags("x", "--NW=1", "--MAX_EPOCH=1", flag)
    process = place.script(*flags, launcher=[sys.executable, str(HANGING)], environment=environment)
    wait_for_hanging(place, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=MINUTE)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "stopped after 1 epochs and 0 steps; saved" in output.splitlines()[-1]
    assert load_checkpoint(place.checkpoint("x", "epoch1.pkl")).epoch == 1
