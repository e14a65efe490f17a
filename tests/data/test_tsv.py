"""The `.tsv` files of region features in both published forms, and damaged ones."""

import base64
import zipfile

import numpy as np
import pytest

from mmnas.data.store import FeatureStore
from mmnas.data.store_writer import pack
from mmnas.data.tsv import read_tsv
from mmnas.errors import DataError

WIDTH = 8


def encoded(values):
    return base64.b64encode(np.asarray(values, "<f4").tobytes())


def features(count=2):
    return np.arange(count * WIDTH, dtype=np.float32).reshape(count, WIDTH)


BOXES = [[0, 0, 30, 20], [1.5, 2, 50, 39.9]]


def bottom_up(**changes):
    row = {
        "image_id": b"42", "image_w": b"60", "image_h": b"40", "num_boxes": b"2", "boxes": encoded(BOXES),
        "features": encoded(features()),
    }  # fmt: skip
    return b"\t".join({**row, **changes}.values()) + b"\n"


def lxmert():
    ids, scores = base64.b64encode(np.array([3, 4]).tobytes()), encoded([0.5, 0.25])
    row = [b"COCO_val2014_000000000042", b"40", b"60", ids, scores, ids, scores, b"2", encoded(BOXES)]
    return b"\t".join([*row, encoded(features())]) + b"\r\n"


@pytest.mark.parametrize("row", [bottom_up(), lxmert()])
@pytest.mark.parametrize("zipped", [False, True])
def test_both_forms(row, zipped, tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(row + b"\n" + row.replace(b"42\t", b"43\t", 1))
    if zipped:
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(path, "trainval/a.tsv")
            archive.writestr("README", "none")
        path = tmp_path / "a.zip"
    images = list(read_tsv(path, WIDTH))
    assert [image_id for image_id, _ in images] == [42, 43]
    regions = images[0][1]
    assert np.array_equal(regions.features, features()) and regions.features.dtype == np.float32
    assert np.array_equal(regions.boxes, np.float32(BOXES))
    assert regions.image_size.tolist() == [40, 60]


DAMAGED = {
    "row 1: has 5 columns": b"\t".join(bottom_up().split(b"\t")[:5]),
    "boxes is not valid base64": bottom_up(boxes=b"?" + encoded(BOXES)),
    "features is not valid base64": bottom_up()[:-3],
    "expected 2 x 8": bottom_up(features=encoded(features(1))),
    "boxes holds 32 bytes, expected 3 x 4": bottom_up(num_boxes=b"3"),
    "num_boxes is '0'": bottom_up(num_boxes=b"0"),
    "num_boxes is '-1'": bottom_up(num_boxes=b"-1"),
    "num_boxes is '99999999999": bottom_up(num_boxes=b"9" * 30),
    "image_w is 'wide'": bottom_up(image_w=b"wide"),
    "lies outside the 30 x 40 image": bottom_up(image_w=b"30"),
    "inverted": bottom_up(boxes=encoded([[0, 0, 30, 20], [50, 2, 1, 9]])),
    "NaN": bottom_up(features=encoded(features() * np.nan)),
    "nan, 20.0. lies outside": bottom_up(boxes=encoded([[0, 0, np.nan, 20], [50, 2, 51, 9]])),
    "holds no integer": bottom_up(image_id=b"x\x1b"),
    "no row": b"\n\n",
}


@pytest.mark.parametrize("match", DAMAGED)
def test_a_damaged_row_is_named(match, tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(DAMAGED[match])
    with pytest.raises(DataError, match=match.replace("?", r"\?")) as caught:
        list(read_tsv(path, WIDTH))
    assert str(path) in str(caught.value) and str(caught.value).isprintable()


def test_a_byte_order_mark_is_no_part_of_the_first_row_and_utf_16_is_named(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(b"\xef\xbb\xbf" + bottom_up())
    assert [image_id for image_id, _ in read_tsv(path, WIDTH)] == [42]
    path.write_bytes(bottom_up().decode("ascii").encode("utf-16"))
    with pytest.raises(DataError, match="UTF-16 text: .*a.tsv: save it as UTF-8"):
        list(read_tsv(path, WIDTH))


def test_a_later_row_is_named_and_those_before_it_are_read(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(bottom_up() + b"cut")
    rows = read_tsv(path, WIDTH)
    assert next(rows)[0] == 42
    with pytest.raises(DataError, match="row 2"):
        next(rows)


def test_tables_are_packed_into_a_store(tmp_path):
    (tmp_path / "a.tsv").write_bytes(bottom_up() + lxmert().replace(b"42\t", b"43\t", 1))
    header, count = pack([tmp_path / "a.tsv"], tmp_path / "a.features", feature_size=WIDTH)
    assert count == 2 and header.finished
    regions = FeatureStore(tmp_path / "a.features")[43]
    assert np.array_equal(np.asarray(regions.features), features())
    assert np.array_equal(regions.boxes, np.float32(BOXES)) and regions.image_size.tolist() == [40, 60]
    with pytest.raises(DataError, match="image 42"):
        pack([tmp_path / "a.tsv"], tmp_path / "b.features", feature_size=WIDTH + 1)


def test_archives_that_are_damaged_or_empty(tmp_path):
    with pytest.raises(DataError, match="not found"):
        list(read_tsv(tmp_path / "absent.tsv", WIDTH))
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.tsv", bottom_up() * 50)
    content = bytearray(path.read_bytes())
    content[60:70] = bytes(10)
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged or truncated"):
        list(read_tsv(path, WIDTH))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "none")
    with pytest.raises(DataError, match="no .tsv file"):
        list(read_tsv(path, WIDTH))
