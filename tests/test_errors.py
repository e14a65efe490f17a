"""Text from strangers in messages: every one is a single printable line of bounded length."""

import errno
import json
import logging
import os

import pytest

from mmnas.__main__ import main
from mmnas.engine.logging import progress, start_logging
from mmnas.errors import JOINERS, LONGEST, ConfigError, DataError, one_line, safe
from mmnas.run import cli
from mmnas.tasks import task_named
from mmnas.tasks.report import Report

# Clears a terminal, sets its title, reverses the text behind it, breaks lines in three ways, is half a character.
EVIL = "a\x1b[2J\x1b]0;x\x07b\u202ec\nd\re\u2028f\u200bg\ud800h\x00i\x9bj"
ESCAPED = r"a\x1b[2J\x1b]0;x\x07b\u202ec\nd\re\u2028f\u200bg\ud800h\x00i\x9bj"


def test_text_is_escaped_once_and_plain_text_of_any_language_stays():
    assert safe(EVIL) == ESCAPED == safe(ESCAPED)
    for text in ("", r"C:\data", "naïve café", "Где мяч?", "猫はどこ？", "أين الكرة"):
        assert safe(text) == text
    persian = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"  # whose parts a joiner keeps apart
    assert safe(persian, kept=JOINERS) == persian != safe(persian)
    assert safe(EVIL, kept=JOINERS) == ESCAPED


@pytest.mark.parametrize("text", ["x" * 6_000_000, EVIL * 200_000, "\U000e0001" * 10_000])
def test_long_text_keeps_its_start_and_its_end(text):
    shown = safe(f"file.json: {text}: remove one")
    assert len(shown) == LONGEST and shown.isprintable()
    assert shown.startswith("file.json: ") and " ... " in shown and shown.endswith(": remove one")
    assert safe(shown) == shown


@pytest.mark.parametrize("exception", [DataError(EVIL), OSError(2, EVIL, EVIL), MemoryError(EVIL)])
def test_every_error_that_is_said_is_one_safe_line(exception):
    assert ESCAPED in one_line(exception) and one_line(exception).isprintable()
    assert not isinstance(exception, DataError) or str(exception) == ESCAPED


@pytest.mark.parametrize(
    "exception",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4611686018427387904 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    ],
)
def test_memory_that_runs_out_is_one_line_with_a_remedy(monkeypatch, capsys, exception):
    def fail(*_):
        raise exception

    monkeypatch.setattr(cli, "make_plan", fail)
    assert cli.main(task_named("vqa"), ["--RUN=train"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: memory ran out; use a smaller --BS") and shown.count("\n") == 1


def test_an_error_of_the_program_itself_is_not_hidden(monkeypatch):
    def fail(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli, "make_plan", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(task_named("vqa"), ["--RUN=train"])


def test_the_log_and_the_terminal(tmp_path, capsys):
    file = tmp_path / "log.txt"
    start_logging(0, file)
    try:
        logging.getLogger("mmnas.x").warning("%s holds %s", "f", EVIL)
        logging.getLogger("mmnas.x").warning("x" * 10**7)
    finally:
        start_logging(1)
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"f holds {ESCAPED}" and len(second) < 10**5
    assert f"WARNING f holds {ESCAPED}\n" in file.read_text(encoding="utf-8")


def test_a_progress_bar_named_after_a_split():
    with progress([], EVIL, 0) as bar:
        assert bar.desc.startswith(ESCAPED)


def test_what_check_data_reports():
    lines = []
    report = Report(lines.append)
    with report.catching():
        raise ConfigError(EVIL)
    report.title(EVIL)
    report.verdict()
    assert lines[1] == ESCAPED and f"fault: {ESCAPED}" in lines and all(map(str.isprintable, lines))


@pytest.mark.parametrize("place", ["key", "operation", "stream"])
def test_names_in_files_do_not_reach_the_terminal_raw_or_whole(tmp_path, capsys, place):
    evil = EVIL.replace("\ud800", "") * 1000
    rows = {"enc": [[evil if place == "operation" else "feed_forward"]], "dec": [["feed_forward"]]}
    entries = {evil if place == "key" else "epoch0": {**rows, evil: []} if place == "stream" else rows}
    (tmp_path / "file.json").write_text(json.dumps(entries))
    assert main(["show-arch", str(tmp_path / "file.json")]) == 2
    shown = capsys.readouterr().err.removesuffix("\n")
    assert shown.isprintable() and len(shown) < 3 * LONGEST and "file.json" in shown


@pytest.mark.parametrize("flag", ["VERSION", "CKPT_PATH", "GENO_PATH", "CFG", "DATA_PATH", "SPLIT", "x"])
def test_flags_and_paths_that_are_no_plain_text(tmp_path, monkeypatch, capsys, flag):
    monkeypatch.chdir(tmp_path)
    text = "caf\udce9" + EVIL.replace("\x00", "") + "x" * 10_000  # an argument that is not UTF-8
    assert cli.main(task_named("vqa"), ["--RUN=train", f"--{flag}={text}", "--GPU=cpu"]) == 2
    shown = capsys.readouterr().err.removesuffix("\n")
    assert shown.startswith("error: ") and shown.isprintable() and len(shown) < 3 * LONGEST


def test_arguments_of_commands(capsys):
    with pytest.raises(SystemExit):
        main(["show-arch", "demo", EVIL])
    assert ESCAPED in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EADDRINUSE, "choose another port"),
        (errno.EMFILE, "raise the limit of open files (ulimit -n)"),
        (errno.EAGAIN, "raise the limit of processes (ulimit -u)"),
        (errno.ENOMEM, "free some memory"),
        (errno.EACCES, "check the path, its permissions and the free disk space"),
    ],
)
def test_the_remedy_is_that_of_the_system_s_error(number, remedy):
    assert one_line(OSError(number, os.strerror(number), "file")) == f"file: {os.strerror(number)}; {remedy}"


def test_a_link_to_itself_is_named(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(link)
    try:
        link.resolve()
    except RuntimeError as exception:  # before Python 3.13
        assert one_line(exception) == f"{exception}: remove the link"
