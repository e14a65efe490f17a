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


@pytest.mark.parametrize("arguments", [["absent"], ["demo", "absent"], ["show-arch"], ["web", "--port=x"]])
def test_a_mistake_in_the_options_of_a_command_is_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    shown = capsys.readouterr().err
    assert stopped.value.code == 2 and shown.startswith("error: ") and shown.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["show-arch", "demo"], ["--version"], ["check-submission", "absent", "absent"]]
)
def test_a_closed_standard_output_stops_no_command(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    try:
        assert main(arguments) == (2 if "absent" in arguments else 0)
    except SystemExit as stopped:
        assert stopped.code == 0


def test_paths_reach_the_terminal_as_printable_lines(tmp_path, monkeypatch, capsys):
    evil = "a\x1b[2J\u202eb\nc\x9bd"
    monkeypatch.chdir(tmp_path)
    assert main(["make-world", evil, "--images=20"]) == 0
    assert main(["make-world", "b", "--images=20"]) == 0
    features = "b/coco_extract/val2014"
    assert main(["pack-features", features, f"{evil}.features"]) == 0
    shown = capsys.readouterr()
    assert shown.out.count("\n") == 3 and all(line.isprintable() for line in shown.out.splitlines())
    assert all(line.isprintable() for line in shown.err.replace("\r", "\n").split("\n"))  # the progress
