import os
import subprocess
import sys

import pytest

from mmnas import __version__
from mmnas.__main__ import COMMANDS, main
from tests.stand_in import ROOT


def test_without_a_command_it_shows_its_help(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: mmnas")
    for name in COMMANDS:
        assert name.replace("_", "-") in shown


def test_every_module_of_commands_is_a_command():
    assert set(COMMANDS) == {path.stem for path in (ROOT / "mmnas/commands").glob("*.py")} - {"__init__"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command.replace("_", "-"), "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: mmnas {command.replace('_', '-')}")


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"mmnas {__version__}\n"


@pytest.mark.parametrize("task", ["vqa", "vgd", "itm"])
def test_train_takes_the_flags_of_the_script(task, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", task, "--help"])
    assert stopped.value.code == 0
    assert "--GENO_PATH" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "vqq", "--RUN=train"], "unknown task 'vqq'; did you mean vqa?"),
        (["train", "vqa", "--RUN=trian"], "--RUN=trian is unknown; did you mean train?"),
        (["train", "vqa"], "--RUN is missing"),
        (["show-arch", "absent"], "genotype file not found: absent; shipped ones: demo, mcan, train_itm"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, capsys):
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {message}") and shown.count("\n") == 1


def test_a_reader_that_has_seen_enough_ends_it_quietly():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "mmnas", "show-arch", "demo"]
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (128 + 13, b"")


@pytest.mark.parametrize(
    "code", ["import mmnas.run.cli", "from mmnas.__main__ import main; main([])", "import mmnas; mmnas.load"]
)
def test_a_system_without_file_locks_is_told_in_one_line(code):
    command = [sys.executable, "-c", f"import sys; sys.modules['fcntl'] = None; {code}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: MMNas runs on Linux and macOS; on Windows, use WSL\n"
