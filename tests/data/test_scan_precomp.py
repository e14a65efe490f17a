"""Captions and ids of Flickr30K and COCO: both forms, oddities of the real files, and what is refused."""

import codecs
import json
import logging

import numpy as np
import pytest

from mmnas.data.scan_precomp import read_split, splits_of
from mmnas.data.sources import grounding_features, matching_features
from mmnas.errors import ConfigError, DataError

TEXTS = [f"caption {number}." for number in range(10)]
INDEX = {"images": [{"imgid": 4, "filename": "1000092795.jpg"}, {"imgid": 7, "filename": "65567.jpg"}]}


@pytest.fixture
def root(tmp_path):
    """A data root with one split of each data set: two images, in both forms of ids."""
    for name, ids in (("f30k_precomp", [4, 7]), ("coco_precomp", [9] * 5 + [30] * 5)):
        write(tmp_path / "itm" / name / "test_ids.txt", "".join(f"{number}\n" for number in ids))
        write(tmp_path / "itm" / name / "test_caps.txt", "".join(f"{text}\n" for text in TEXTS))
    write(tmp_path / "itm" / "dataset_flickr30k.json", json.dumps(INDEX))
    return tmp_path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def file(root, name, dataset="coco_precomp"):
    return root / "itm" / dataset / name


def test_ids_once_per_image_by_way_of_the_index(root):
    split = read_split(root, "flickr", "test")
    assert split.image_ids.tolist() == [1000092795, 65567] and split.texts == TEXTS


def test_ids_once_per_caption(root):
    split = read_split(root, "coco", "test")
    assert split.image_ids.tolist() == [9, 30] and split.texts == TEXTS


def test_what_real_files_have(root, caplog):
    """No newline at the end, Windows line ends, letters and line separators beyond ASCII, an empty caption."""
    texts = ["Ein Bär, naïve", "with \x85 and \u2028 inside", "", "日本"] + TEXTS[4:]
    write(file(root, "test_caps.txt"), "\r\n".join(texts))
    with caplog.at_level(logging.WARNING):
        assert read_split(root, "coco", "test").texts == texts
    assert "line 3 is empty (1 such)" in caplog.text


@pytest.mark.parametrize("texts", [TEXTS[:9], TEXTS + ["one more"], []])
def test_counts_that_fit_neither_form(root, texts):
    write(file(root, "test_caps.txt"), "".join(f"{text}\n" for text in texts))
    with pytest.raises(DataError, match=f"test_ids.txt has 10 lines, test_caps.txt {len(texts)}"):
        read_split(root, "coco", "test")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("9\n" * 4 + "30\n" * 6, "line 1: five lines in a row"),
        ("9\n" * 5 + "x\n" * 5, "line 6: 'x' is not an image id"),
        ("", "has 0 lines"),
    ],
)
def test_ids_that_make_no_sense(root, ids, message):
    write(file(root, "test_ids.txt"), ids)
    with pytest.raises(DataError, match=message):
        read_split(root, "coco", "test")


def test_ids_that_the_index_lacks_are_named_and_counted(root):
    write(file(root, "test_ids.txt", "f30k_precomp"), "5\n6\n")
    with pytest.raises(DataError, match="image 5 and 1 more of .*test_ids.txt not in .*dataset_flickr30k.json"):
        read_split(root, "flickr", "test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[0]", "[Ee]xpected object, got array"),
        ('{"images": [{"imgid": 1, "filename": "a"}]}', r"images\[0\].filename: .*, not 'a'"),
        ('{"images": [{"imgid": 1e3, "filename": "1.jpg"}]}', r"images\[0\].imgid: expected int, got float"),
        (
            '{"images": [{"imgid": 9223372036854775808, "filename": "1.jpg"}]}',
            r"images\[0\].imgid: expected int <=",
        ),
    ],
)
def test_a_damaged_index(root, content, message):
    write(root / "itm" / "dataset_flickr30k.json", content)
    with pytest.raises(DataError, match=message):
        read_split(root, "flickr", "test")


def test_missing_files_and_bytes_that_are_no_text(root):
    for name in ("test_caps.txt", "test_ids.txt"):
        content = file(root, name).read_bytes()
        file(root, name).unlink()
        with pytest.raises(DataError, match=f"not found: .*{name}"):
            read_split(root, "coco", "test")
        write(file(root, name), content)
    write(file(root, "test_caps.txt"), b"fine\n\xff\xfe\n")
    with pytest.raises(DataError, match="not UTF-8 text: .*test_caps.txt, line 2"):
        read_split(root, "coco", "test")


def test_a_byte_order_mark_is_no_part_of_the_first_line(root):
    for name in ("test_caps.txt", "test_ids.txt"):
        content = file(root, name).read_bytes()
        write(file(root, name), codecs.BOM_UTF8 + content)
    split = read_split(root, "coco", "test")
    assert split.image_ids.tolist() == [9, 30] and split.texts == TEXTS
    write(file(root, "test_caps.txt"), "\n".join(TEXTS).encode("utf-16"))
    with pytest.raises(DataError, match="captions file is UTF-16 text: .*test_caps.txt: save it as UTF-8"):
        read_split(root, "coco", "test")


def test_splits_in_the_order_of_the_vocabulary():
    assert splits_of("flickr") == ("train", "dev", "test")
    assert splits_of("coco") == ("train", "dev", "test", "testall")
    with pytest.raises(ConfigError, match="did you mean coco"):
        splits_of("cocoo")


@pytest.mark.parametrize(
    ("dataset", "folder"),
    [
        ("flickr", "flickr_rois_resnet101_fix36"), ("flickr", "itm/flickr_bua-r101-fix36"),
        ("coco", "rois_resnet101_fix36"), ("coco", "itm/bua-r101-fix36"),
    ],
)  # fmt: skip
def test_feature_folders(tmp_path, dataset, folder):
    with pytest.raises(DataError, match="fix36"):
        matching_features(tmp_path, None, dataset, 4)
    inner = tmp_path / folder / ("" if dataset == "flickr" else "train2014")
    inner.mkdir(parents=True)
    features = {"x": np.ones((4, 2), np.float32), "bbox": np.array([[0, 0, 5, 5]] * 2)}
    np.savez(inner / "COCO_train2014_12.jpg.npz", **features, image_h=9, image_w=9)
    outer = tmp_path / folder
    for data, named in ((tmp_path, None), ("nowhere", outer.parent), ("nowhere", outer)):
        assert 12 in matching_features(data, named, dataset, 4)


def test_features_for_grounding_where_the_later_published_code_has_them(tmp_path):
    folder = tmp_path / "vgd" / "bua-r101-fix100"
    folder.mkdir(parents=True)
    features = {"x": np.ones((4, 2), np.float32), "bbox": np.array([[0, 0, 5, 5]] * 2)}
    np.savez(folder / "COCO_train2014_000000000012.jpg.npz", **features, image_h=9, image_w=9)
    for data, named in ((tmp_path, None), ("nowhere", folder.parent), ("nowhere", folder)):
        assert 12 in grounding_features(data, named, "refcocog", "vg_woref", 4)
