"""Referring expressions: the distributed files, what is kept of them, and files that cannot be used."""

import collections
import json
import os
import pickle
import stat
import sys

import pytest

from mmnas.data.pickles import read_plain_pickle
from mmnas.data.refs import find_expressions, splits_of
from mmnas.errors import ConfigError, DataError
from tests.places import require_expressions

SPLITS = ("train", "val", "testA", "testB")


def sentence(sent_id, text):
    return {"tokens": text.split(), "raw": text.capitalize(), "sent_id": sent_id, "sent": text}


def ref(number, split, *texts, **changes):
    sentences = [sentence(10 * number + place, text) for place, text in enumerate(texts)]
    entry = {
        "sent_ids": [each["sent_id"] for each in sentences],
        "file_name": f"COCO_train2014_{number:012d}_{number}.jpg",
        "ann_id": 1000 + number,
        "ref_id": number,
        "image_id": 100 + number,
        "split": split,
        "sentences": sentences,
        "category_id": 1,
    }
    return entry | changes


def annotation(number, bbox):
    return {"id": 1000 + number, "image_id": 100 + number, "bbox": bbox, "iscrowd": 0, "category_id": 1}


REFS = [
    ref(0, "testB", "the ball"),
    ref(1, "train", "red cube", "cube left"),
    ref(2, "val", "a cup"),
    ref(3, "testA", "man"),
    ref(4, "train", "big cup"),
]
INSTANCES = {"images": [], "annotations": [annotation(n, [10.5, 20, 30, 40.25 + n]) for n in range(5)]}


class Refs:
    """The folder of one data set."""

    def __init__(self, root, dataset="refcoco", by="unc"):
        self.root, self.dataset = root, dataset
        self.folder = root / "refs" / dataset
        self.folder.mkdir(parents=True)
        self.refs = self.folder / f"refs({by}).p"
        self.instances = self.folder / "instances.json"

    def write(self, refs=REFS, instances=INSTANCES):
        self.refs.write_bytes(pickle.dumps(refs, protocol=2))
        self.instances.write_text(json.dumps(instances))
        return self

    def read(self, split="train"):
        return require_expressions(self.root, self.dataset, split)


@pytest.fixture
def refs(tmp_path):
    return Refs(tmp_path).write()


def tokens(expressions):
    return [" ".join(expression.tokens) for expression in expressions]


# The distributed files


def test_expressions_stand_in_the_order_of_refs_then_sentences(refs):
    expressions = refs.read()
    assert tokens(expressions) == ["red cube", "cube left", "big cup"]
    assert [(each.image_id, each.ref_id, each.sent_id) for each in expressions] == [
        (101, 1, 10), (101, 1, 11), (104, 4, 40),
    ]  # fmt: skip
    # x, y, width, height 10.5, 20, 30, 41.25
    assert expressions[0].box == (10.5, 20, 40.5, 61.25)


def test_splits_of_each_data_set(refs):
    assert splits_of("refcoco") == splits_of("refcoco+") == SPLITS
    assert splits_of("refcocog") == ("train", "val", "test")
    found = find_expressions(refs.root, "refcoco", SPLITS)
    assert [len(found[split]) for split in SPLITS] == [3, 1, 1, 1]


def test_umd_is_read_for_refcocog(tmp_path):
    entries = [ref(0, "test", "a"), ref(1, "train", "b"), ref(2, "val", "c")]
    assert tokens(Refs(tmp_path, "refcocog", "umd").write(entries).read("test")) == ["a"]


def test_a_pickle_of_python_2_is_read(refs):
    """Protocol 2 as Python 2 writes it: text as byte strings (SHORT_BINSTRING), which are no UTF-8 here."""

    def old(value):
        if isinstance(value, dict):
            return b"}(" + b"".join(old(key) + old(item) for key, item in value.items()) + b"u"
        if isinstance(value, list):
            return b"](" + b"".join(map(old, value)) + b"e"
        if isinstance(value, str):
            text = value.encode("latin1")
            return b"U" + bytes([len(text)]) + text
        return b"J" + value.to_bytes(4, "little", signed=True)

    entries = [*REFS[:2], ref(2, "val", "caf\xe9 cup"), *REFS[3:]]
    refs.refs.write_bytes(b"\x80\x02" + old(entries) + b".")
    assert tokens(refs.read("val")) == ["caf\xe9 cup"]
    assert tokens(refs.read()) == ["red cube", "cube left", "big cup"]
    path = refs.folder / "text.p"
    path.write_bytes(b"\x80\x02U\x05caf\xc3\xa9.")
    assert read_plain_pickle(path) == "caf\xe9"


def test_the_layout_of_the_later_published_code_is_found(tmp_path):
    """`vgd/<dataset>/<split>.json`: lists without the ids of ref and sentence."""
    entry = {"tokens": ["the", "lady"], "file_name": "COCO_train2014_000000000107_16.jpg", "image_id": 107}
    entry |= {"split": "val", "bbox": [103.9, 299.9, 134.2, 177.4], "name": "person", "height": 640, "width": 427}
    for dataset in ("refcoco", "refcoco+", "refcocog"):
        folder = tmp_path / "vgd" / dataset
        folder.mkdir(parents=True)
        for split in splits_of(dataset):
            (folder / f"{split}.json").write_text(json.dumps([entry | {"split": split, "tokens": [split]}]))
        found = find_expressions(tmp_path, dataset, splits_of(dataset))
        assert [tokens(expressions) for expressions in found.values()] == [[split] for split in splits_of(dataset)]
        assert (found["val"][0].image_id, found["val"][0].ref_id, found["val"][0].sent_id) == (107, None, None)
    assert tokens(Refs(tmp_path).write().read("val")) == ["a cup"]  # refs/ comes first


def test_the_originals_are_read_there_too(tmp_path):
    refs = Refs(tmp_path).write()
    (tmp_path / "vgd").mkdir()
    refs.folder.rename(tmp_path / "vgd" / "refcoco")
    (tmp_path / "refs" / "refcoco").mkdir()
    assert tokens(refs.read()) == ["red cube", "cube left", "big cup"]
    assert (tmp_path / "vgd" / "refcoco" / "train.json").is_file()


# What is kept


def kept(refs, split="train"):
    return refs.folder / f"{split}.json"


def test_what_was_read_is_kept_and_taken(refs, monkeypatch):
    first = refs.read()
    assert kept(refs).is_file() and not kept(refs, "val").exists()
    monkeypatch.setattr("mmnas.data.refs.read_plain_pickle", None)
    assert refs.read() == first


@pytest.mark.parametrize("which", ["refs", "instances"])
def test_it_is_made_again_when_an_original_changes(refs, which):
    refs.read()
    changed = [ref(1, "train", "a new phrase"), *REFS[:1], *REFS[2:]]
    instances = {"annotations": [annotation(n, [1, 2, 3, 4]) for n in range(5)]}
    refs.write(*(changed, INSTANCES) if which == "refs" else (REFS, instances))
    expressions = refs.read()
    if which == "refs":
        assert tokens(expressions) == ["a new phrase", "big cup"]
    else:
        assert expressions[0].box == (1, 2, 4, 6)
    assert refs.read() == expressions


def test_it_is_made_again_when_only_the_time_changes(refs):
    refs.read()
    stamp = json.loads(kept(refs).read_text())["originals"]
    os.utime(refs.refs, ns=(1, 1))
    refs.read()
    assert json.loads(kept(refs).read_text())["originals"] != stamp


def test_it_serves_without_the_originals(refs):
    first = refs.read()
    refs.refs.unlink()
    assert refs.read() == first
    refs.instances.unlink()
    assert refs.read() == first


def test_a_list_is_the_users_own_and_stays(refs):
    entry = {"image_id": 7, "ref_id": 1, "sent_id": 2, "tokens": ["mine"], "bbox": [0, 0, 5, 6], "more": 1}
    text = json.dumps([entry])
    kept(refs).write_text(text)
    assert tokens(refs.read()) == ["mine"]
    assert kept(refs).read_text() == text


def test_a_split_that_cannot_be_kept_is_a_warning(refs, monkeypatch, caplog):
    def refuse(path, value):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("mmnas.data.refs.write_json", refuse)
    assert len(refs.read()) == 3
    assert "cannot be written (Permission denied)" in caplog.text


def test_a_read_only_folder_only_costs_the_cache(refs):
    os.chmod(refs.folder, stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert len(refs.read()) == 3
    finally:
        os.chmod(refs.folder, stat.S_IRWXU)


def test_other_splits_may_lack(refs):
    refs.read()
    refs.refs.unlink()
    assert list(find_expressions(refs.root, "refcoco", SPLITS)) == ["train"]
    with pytest.raises(DataError, match=r"no expressions of testA in .*instances.json and refs\(unc\).p"):
        refs.read("testA")


# Files that cannot be used


def test_an_unknown_split_or_data_set_lists_the_valid_ones(refs):
    with pytest.raises(ConfigError, match="refcoco's split 'test' is unknown; did you mean testA?"):
        refs.read("test")
    with pytest.raises(ConfigError, match="refcocog's split 'testA' is unknown; did you mean test?"):
        require_expressions(refs.root, "refcocog", "testA")
    with pytest.raises(ConfigError, match=r"data set 'refcoc' is unknown; did you mean refcoco"):
        require_expressions(refs.root, "refcoc", "val")


def test_another_split_by_is_named(refs):
    google = refs.folder / "refs(google).p"
    refs.refs.rename(google)
    with pytest.raises(DataError, match=r"put .*refs\(unc\).p there; refs\(google\).p is of another split-by"):
        refs.read()
    refs.write([*REFS, ref(4, "test", "x")])
    with pytest.raises(DataError, match=r"refs\(unc\).p, ref 5: split 'test' is none of train.*another split-by"):
        refs.read()
    refs.write([entry for entry in REFS if entry["split"] != "testB"])
    with pytest.raises(DataError, match="no ref of split testB"):
        refs.read()


FAULTS = {
    "half a character": (
        ref(1, "train", sentences=[{"sent_id": 1, "tokens": ["\ud800"]}]),
        "ref 0: .*lone surrogate",
    ),
    "half a key": ({"\ud800": 1, **ref(1, "train", "a")}, "ref 0: .*surrogates not allowed"),
    "a number beyond 64 bits": (ref(2**70, "train", "a"), "ref 0: ann_id: expected int <="),
    "annotation": (ref(1, "train", "a", ann_id=77), r"ref 0: annotation id 77 is not in .*instances.json"),
    "image": (ref(1, "train", "a", image_id=3), "annotation 1001 is of another image"),
    "no split": ({"ann_id": 1001}, "ref 0: .*missing required field split"),
    "tokens": (
        ref(1, "train", sentences=[{"sent_id": 1, "tokens": [1]}]),
        r"ref 0: sentences\[0\].tokens\[0\]: expected str, got int",
    ),
    "sentences": (ref(1, "train", sentences="a"), "ref 0: sentences: expected array, got str"),
    "no ref": (3, "ref 0: Expected object, got int"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_ref_that_does_not_fit_is_named(refs, fault):
    entry, message = FAULTS[fault]
    refs.write([entry, *REFS])
    with pytest.raises(DataError, match=message) as caught:
        refs.read()
    assert str(refs.refs) in str(caught.value)


@pytest.mark.parametrize(
    ("bbox", "message"),
    [
        ([1, 2, 0, 5], r"annotation 1001 in .*instances.json: .*has no area"),
        ([1, 2, 3, -1.5], "has no area"),
        ([1, 2, 3], r"annotation 1001 in .*instances.json: bbox: .*array of length 4"),
        ([1, 2, float("nan"), 3], r"instances.json, line 1, column \d+: invalid character"),
        ([1, 2, "3", 4], r"annotation 1001 in .*instances.json: bbox: .*expected float, got str"),
        ([1, 2, 10**400, 4], r"annotation 1001 in .*instances.json: bbox: .*out of range"),
        ([1, 2e6, 3, 4], r"annotation 1001 in .*instances.json: bbox: .*expected float < 1000000"),
    ],
)
def test_a_reference_box_that_is_none_is_named(refs, bbox, message):
    refs.write(instances={"annotations": [annotation(n, bbox if n == 1 else [1, 2, 3, 4]) for n in range(5)]})
    with pytest.raises(DataError, match=message):
        refs.read()


def test_files_of_another_kind(refs):
    refs.write(refs={"a": 1})
    with pytest.raises(DataError, match="holds no list of refs"):
        refs.read()
    refs.write(instances=[])
    with pytest.raises(DataError, match="instances.json: .*got array"):
        refs.read()
    for text, message in (
        ("{}", "missing required field originals"),
        ("[]", "array of length >= 1"),
        ("[{}]", r"\[0\]: object missing required field image_id"),
        ("[", "not valid JSON"),
    ):
        kept(refs).write_text(text)
        with pytest.raises(DataError, match=message):
            refs.read()


# Pickles of strangers


class Evil:
    """Pickles to a call of `os.system`."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_code_runs(refs, tmp_path, protocol):
    mark = tmp_path / "ran"
    refs.refs.write_bytes(pickle.dumps([*REFS, Evil(mark)], protocol=protocol))
    with pytest.raises(DataError, match=r"asks for \w+\.system: .*nothing in it was run"):
        refs.read()
    assert not mark.exists()


@pytest.mark.parametrize("value", [collections.OrderedDict(a=1), sys.exit, ValueError("x"), slice(3), object()])
def test_any_class_is_refused_and_named(refs, value):
    refs.write(refs=[value])
    with pytest.raises(DataError, match=r"refs\(unc\).p asks for \w+\.\w+"):
        refs.read()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"refs", b"\x80\x02]q\x00(", pickle.dumps(REFS, 2)[:200], b"cos\nsystem\n(S'true'\ntR.",
        b"\x82\x01.", b"Q.", b"\x80\x02X\xff\xff\xff\x7fab.", b"(i__main__\nX\n.", b"\x80\x09.",
    ],
)  # fmt: skip
def test_damaged_pickles_are_one_line(refs, content):
    refs.refs.write_bytes(content)
    with pytest.raises(DataError) as caught:
        refs.read()
    assert str(refs.refs) in str(caught.value) and "\n" not in str(caught.value)


def test_plain_values_of_all_kinds_are_read(tmp_path):
    value = {"a": [1, 2.5, None, True], "b": ("x", b"y"), "c": {1, 2}, "d": 2**80, "e": "\u96ea"}
    path = tmp_path / "plain.p"
    path.write_bytes(pickle.dumps(value, 4))
    assert read_plain_pickle(path) == value
    with pytest.raises(DataError, match="refs file not found: .*none.p"):
        read_plain_pickle(tmp_path / "none.p", "refs file")
    with pytest.raises(DataError, match="cannot be read"):
        read_plain_pickle(tmp_path)
