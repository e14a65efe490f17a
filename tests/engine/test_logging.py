"""The terminal can never stop a run, whatever is wrong with it; the log file notes once what it does not take."""

import os
import pty
import subprocess
import sys
import termios
import time

import pytest

from tests.conftest import ROOT

_RUN = """
import sys, warnings
from pathlib import Path
from mmnas.engine.logging import log, progress, start_logging
start_logging(0, Path(sys.argv[1]))
bar = progress(range(int(sys.argv[2])), "epoch \\u00e9\\udcff", 0)
for number in bar:
    bar.refresh()
    log.info("line %d of %s", number, sys.argv[1])
warnings.warn("of a library")
print("error: the last", file=sys.stderr)
log.debug("trained")
files = [open(sys.argv[1]) for _ in range(3)]
assert min(file.fileno() for file in files) > 2
"""


@pytest.fixture
def log(tmp_path):
    return tmp_path / "f\u00f6lder" / "log.txt"


def run(log, lines=30, prefix=(), **options):
    command = [*prefix, sys.executable, "-c", _RUN, str(log), str(lines)]
    return subprocess.Popen(command, cwd=ROOT, **options)


def check_log(log, lines=30, dropped=True):
    text = log.read_text(encoding="utf-8")
    assert text.count(" INFO line ") == lines and text.endswith("DEBUG trained\n")
    assert text.count("the terminal cannot be written (") == dropped


def test_a_full_terminal(log):
    with open("/dev/full", "wb") as full:
        assert run(log, stderr=full).wait(120) == 0
    check_log(log)
    assert "(No space left on device)" in log.read_text(encoding="utf-8")


@pytest.mark.parametrize("closed", ["2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
def test_a_closed_terminal_is_not_mistaken_for_the_next_file(log, closed):
    assert run(log, prefix=["sh", "-c", f'exec "$@" {closed}', "sh"]).wait(120) == 0
    check_log(log)


def test_a_reader_that_leaves(log):
    process = run(log, lines=3000, stderr=subprocess.PIPE)
    process.stderr.read(100)
    process.stderr.close()
    assert process.wait(120) == 0
    check_log(log, 3000)


def test_a_reader_that_does_not_read(log):
    process = run(log, lines=3000, stderr=subprocess.PIPE)
    assert process.wait(120) == 0
    check_log(log, 3000)
    assert "(it is not read)" in log.read_text(encoding="utf-8")
    process.stderr.close()


def test_a_terminal_that_is_halted_and_goes_on(log):
    ours, theirs = pty.openpty()
    termios.tcflow(theirs, termios.TCOOFF)
    process = run(log, stderr=theirs)
    assert process.wait(120) == 0
    check_log(log)
    os.close(theirs)
    os.close(ours)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_an_encoding_that_lacks_a_character(log, encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    process = run(log, stderr=subprocess.PIPE, env=environment)
    output = process.communicate(timeout=120)[1].decode(encoding)
    assert process.returncode == 0 and "Traceback" not in output
    expected = r"f\xf6lder" if encoding == "ascii" else "f\u00f6lder"
    assert f"line 29 of {log.parent.parent}/{expected}" in output and "error: the last" in output
    check_log(log, dropped=False)


def test_a_slow_reader_gets_every_line(log):
    process = run(log, lines=500, stderr=subprocess.PIPE)
    output = b""
    while part := os.read(process.stderr.fileno(), 1 << 14):
        output += part
        time.sleep(0.01)
    assert process.wait(120) == 0
    assert output.count(b"line ") >= 500 and b"error: the last" in output
    check_log(log, 500, dropped=False)


@pytest.mark.parametrize(
    "command", [["-m", "mmnas", "pack-features", "absent", "out"], ["train_vqa.py", "--RUN=x"]]
)
@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
def test_a_users_error_keeps_its_exit_code(tmp_path, command, redirection):
    line = f'exec "$@" {redirection}'
    done = subprocess.run(["sh", "-c", line, "sh", sys.executable, *command], cwd=ROOT, timeout=120)
    assert done.returncode == 2
