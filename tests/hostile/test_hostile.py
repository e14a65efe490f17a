"""A small share of what `python -m tests.hostile` does: altered files for every reader, accepted or refused."""

import random

import pytest

from tests.hostile.__main__ import main
from tests.hostile.feeding import feed, is_clear
from tests.hostile.mutate_binary import FORMS, altered
from tests.hostile.readers import READERS, Reader

SHARE = 60


@pytest.mark.parametrize("name", READERS)
def test_altered_files_are_accepted_or_refused(name, tmp_path):
    outcome = feed(name, tmp_path, range(SHARE), seed=0)
    assert outcome.faults == []
    assert outcome.accepted + outcome.refused == outcome.inputs == SHARE


def test_every_form_has_a_reader():
    assert {reader.form for reader in READERS.values()} == set(FORMS)


@pytest.mark.parametrize("name", ["genotype", "config", "npz", "refs", "checkpoint"])
def test_the_same_seed_gives_the_same_files(name, tmp_path):
    content = READERS[name].write(tmp_path).read_bytes()
    for number in range(20):
        first, second = (altered(content, READERS[name].form, random.Random(number)) for _ in range(2))
        assert first == second


def endless(folder):
    while True:
        pass


FAULTY = {
    "ValueError in": lambda folder: int("a"),
    "TooLong in": endless,
    "no clear line": lambda folder: refuse(""),
}


def refuse(message):
    from mmnas.errors import DataError

    raise DataError(message)


@pytest.mark.parametrize("fault", FAULTY)
def test_a_faulty_reader_would_be_found(fault, tmp_path, monkeypatch):
    calls = []

    def read(folder):
        calls.append(folder)
        return FAULTY[fault](folder) if len(calls) > 1 else None

    monkeypatch.setattr("tests.hostile.feeding.SECONDS", 0.2)
    monkeypatch.setitem(READERS, "genotype", Reader("json", READERS["genotype"].write, read))
    outcome = feed("genotype", tmp_path, range(1), seed=0)
    assert (
        len(outcome.faults) == 1 and fault in outcome.faults[0] and "genotype, seed 0, input 0" in outcome.faults[0]
    )


@pytest.mark.parametrize("message", ["", "a\nb", "a\x1b[2J", "\ud800", "x" * 3000])
def test_what_is_no_clear_line(message):
    assert not is_clear(message)


def test_the_command_prints_a_table(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["hostile", "--inputs=20", "--reader=genotype"])
    assert main() == 0
    title, row = capsys.readouterr().out.splitlines()
    assert title.split()[:5] == ["reader", "inputs", "accepted", "refused", "faults"]
    assert row.split()[:2] == ["genotype", "20"] and row.split()[4] == "0"
