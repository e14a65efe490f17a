"""Small pickles and checkpoints that would fill the memory, never end, crash or run code: refused in one line."""

import io
import pickle
import struct
import zipfile

import pytest
import torch

from mmnas.data.pickles import read_plain_pickle
from tests.hostile.mutate_binary import Shadowed
from tests.hostile.reading_arrays import OWN_WEIGHTS
from tests.hostile.refusing import refused

BOMB = 256 * 2**20  # bytes that an archive unfolds to
pytestmark = pytest.mark.usefixtures("little_memory")


# Pickles


def colliding(count):
    """A dict of whole numbers that all have the hash 0."""
    return pickle.dumps({number * (2**61 - 1): 0 for number in range(count)}, 4)


def shared():
    words = ["a"] * 300
    sentences = [{"tokens": words, "sent_id": 1}] * 300
    return pickle.dumps([{"split": "train", "ann_id": 0, "ref_id": 1, "image_id": 7, "sentences": sentences}] * 300)


def within_itself():
    value = []
    value.append(value)
    return pickle.dumps(value)


PICKLES = {
    "a numbered place": b"\x80\x04]r\xff\xff\xff\x7f.",
    "a place in text": b"(lp99999999999\n.",
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 10**12) + b".",
    "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 10**12) + b".",
    "text": b"\x80\x04\x8d" + struct.pack("<Q", 10**12) + b".",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 10**12) + b"].",
    "whole number": b"\x80\x04\x8b\xff\xff\xff\x7f.",
    "digits": b"L" + b"9" * 100_000 + b"L\n.",
    "tuples as key": b"\x80\x04}N" + b"\x85" * 400_000 + b"Ns.",
    "frozensets as key": b"\x80\x04}(" + b"(N\x91" + b"\x85" * 400_000 + b"Ns.",
    "colliding keys": colliding(60_000),
    "shared lists": shared(),
    "itself": within_itself(),
    "code": b"cos\nsystem\n(S'touch ran'\ntR.",
    "registered code": b"\x80\x02\x82\x01.",
    "a persistent thing": b"Pthing\n.",
}


@pytest.mark.parametrize("case", PICKLES)
def test_pickles(read, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(read, "refs", PICKLES[case])
    assert not (tmp_path / "ran").exists()


def test_a_pickle_of_python_2_in_text(tmp_path):
    (tmp_path / "refs.p").write_bytes(b"(lp0\nS'caf\\xc3\\xa9'\np1\nag1\na.")
    assert read_plain_pickle(tmp_path / "refs.p") == ["café", "café"]


# Checkpoints


class Evil:
    def __reduce__(self):
        return (open, ("ran", "w"))


def laughs(levels=9):
    value = ["a"]
    for _ in range(levels):
        value = [value] * 10
    return value


HUGE = torch.ones(1).expand(2**20, 2**20)
ENTRIES = {
    "history of text": {"history": "none"},
    "history of numbers": {"history": [1, 2]},
    "an epoch of text in the history": {"history": [{"epoch": "a", "loss": 1.0, "metrics": None}]},
    "no metrics in the history": {"history": [{"epoch": 1, "loss": 1.0}]},
    "metrics of text": {"history": [{"epoch": 1, "loss": 1.0, "metrics": {"overall": "high"}}]},
    "an epoch of a tensor": {"epoch": torch.tensor(3)},
    "a negative step": {"step": -1},
    "words of numbers": {"vocabularies": {"tokens": ["PAD", "UNK", "CLS", 3], "answers": ["yes"]}},
    "words as text": {"vocabularies": {"tokens": "PAD", "answers": "yes"}},
    "half a character": {"vocabularies": {"tokens": ["PAD", "UNK", "CLS", "\ud800"], "answers": ["yes"]}},
    "weights of text": {"model": {**OWN_WEIGHTS, "stem.bias": "none"}},
    "no weights": {"model": {}},
    "weights in a list": {"model": [1]},
    "NaN weights": {"model": {**OWN_WEIGHTS, "stem.bias": torch.full((5,), float("nan"))}},
    "whole weights": {"model": {**OWN_WEIGHTS, "stem.bias": torch.zeros(5, dtype=torch.int64)}},
    "complex weights": {"model": {**OWN_WEIGHTS, "stem.bias": torch.zeros(5, dtype=torch.complex64)}},
    "weights nowhere": {"model": {**OWN_WEIGHTS, "stem.bias": torch.zeros(5, device="meta")}},
    "weights that lie thin": {"model": {**OWN_WEIGHTS, "stem.bias": torch.zeros(5).to_sparse()}},
    "weights without memory": {"model": {**OWN_WEIGHTS, "stem.bias": HUGE}},
    "a key of a tensor": {"config": {torch.zeros(2): 1}},
    "laughs": {"history": laughs()},
    "laughs in the genotype": {"genotype": {"enc": laughs(), "dec": laughs()}},
    "a version that climbs": {"version": "../../x"},
    "an unknown entry": {"foreign": 1, 2: 3},
    "code": {"history": [Evil()]},
}


def checkpoint_with(path, change):
    values = torch.load(path, weights_only=True)
    version = change.pop("version", None) if "version" in change else None
    values = {**values, **change}
    if version is not None:
        values["config"] = {**values["config"], "version": version}
    stream = io.BytesIO()
    torch.save(values, stream)
    return stream.getvalue()


@pytest.mark.parametrize("case", ENTRIES)
def test_entries_of_a_checkpoint(read, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(read, "checkpoint", lambda path: checkpoint_with(path, dict(ENTRIES[case])), "epoch2.pkl")
    assert not (tmp_path / "ran").exists()


def test_attributes_in_the_place_of_methods_are_left_out(read):
    read("checkpoint", lambda path: checkpoint_with(path, {"model": Shadowed(OWN_WEIGHTS)}))


@pytest.mark.parametrize("name", ["checkpoint", "released checkpoint"])
def test_a_compressed_checkpoint(read, name):
    def bomb(path):
        stream = io.BytesIO()
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made:
            for each in archive.namelist():
                with made.open(each, "w") as file:
                    file.write(archive.read(each))
                    for _ in range(BOMB // 2**20 if each.endswith("data.pkl") else 0):
                        file.write(b"\0" * 2**20)
        return stream.getvalue()

    refused(read, name, bomb, "damaged")


def test_released_weights_without_names(read):
    def unnamed(path):
        stream = io.BytesIO()
        torch.save({"state_dict": {1: torch.ones(2), "a": 1.0}}, stream)
        return stream.getvalue()

    refused(read, "released checkpoint", unnamed, "name")
