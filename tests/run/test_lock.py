"""Two runs of one version: the second is refused, unless the first is gone."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from mmnas.errors import ConfigError
from mmnas.run.lock import NAME, locked

HOLD = "import sys, time; from pathlib import Path; from mmnas.run.lock import locked\n\
with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of the folder "run"."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_and_told_by_whom(tmp_path, holder):
    with pytest.raises(ConfigError, match=f"in use by process {holder.pid} on {socket.gethostname()}"):
        with locked(tmp_path / "run"):
            pass


def test_a_killed_process_leaves_a_lock_that_is_taken_over(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert json.loads((tmp_path / "run" / NAME).read_text())["pid"] == holder.pid
    with locked(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / NAME).read_text())["pid"] == os.getpid()
        (tmp_path / "run" / "epoch1.pkl").touch()
    assert (tmp_path / "run" / NAME).read_text() == ""


def test_the_folder_of_a_run_that_wrote_nothing_is_removed(tmp_path):
    with locked(tmp_path / "logs" / "ckpts" / "run"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_process_on_another_host_cannot_be_told_from_a_dead_one(tmp_path):
    (tmp_path / NAME).write_text(json.dumps({"pid": 5, "host": "elsewhere"}))
    with pytest.raises(ConfigError, match="process 5 on elsewhere.*delete"):
        with locked(tmp_path):
            pass


@pytest.mark.parametrize("text", ["", "nonsense", "[1]", '{"pid": '])
def test_what_a_lock_file_holds_cannot_stop_a_run(tmp_path, text):
    (tmp_path / NAME).write_text(text)
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_lock_that_is_a_link_does_no_harm(tmp_path, link):
    other = tmp_path / "other.txt"
    other.write_text("precious")
    (tmp_path / "run").mkdir()
    link(other, tmp_path / "run" / NAME)
    with pytest.raises(ConfigError, match=r"run/\.lock is not the plain file.*delete it"):
        with locked(tmp_path / "run"):
            pass
    assert other.read_text() == "precious"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_lock_that_is_no_file_is_refused_at_once(tmp_path, make):
    make(tmp_path / NAME)
    with pytest.raises(ConfigError, match="delete it"):
        with locked(tmp_path):
            pass


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the lock is its file alone")
@pytest.mark.parametrize("deleted", [f"run/{NAME}", "run"])
def test_a_deleted_lock_or_folder_admits_no_second_run(tmp_path, holder, deleted):
    path = tmp_path / deleted
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ConfigError, match="in use by another run"):
        with locked(tmp_path / "run"):
            pass
    holder.kill()
    holder.wait()
    with locked(tmp_path / "run"):
        pass


def test_a_worker_that_outlives_its_run_holds_no_lock(tmp_path):
    """A forked process has copies of all open files."""
    started, start = os.pipe()
    with locked(tmp_path):
        child = os.fork()
        if not child:
            os.write(start, b"1")
            time.sleep(60)
            os._exit(0)
        os.read(started, 1)
    try:
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_two_runs_of_one_version(place, run):
    """The second neither writes a checkpoint nor a line into the log of the first."""
    process = place.script(*place.train_flags("one", "--MAX_EPOCH=400", "--BS=8"))
    log, end = place.folder / "logs/log/log_run_one.txt", time.monotonic() + 240
    while not (log.exists() and "epoch 1: loss" in log.read_text()):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.05)
    done = run(place, "--RUN=train", "--VERSION=one", "--RESUME")
    assert done.code == 2 and f"in use by process {process.pid}" in done.output
    assert len(done.output.splitlines()) == 1
    assert log.read_text().count("train vqa, size") == 1
    process.terminate()
    assert process.wait(timeout=120) == 128 + signal.SIGTERM
