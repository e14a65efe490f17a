import os
import shutil

import numpy as np
import pytest

from mmnas.data.features import NpzFolders, image_id_of, read_npz
from mmnas.data.samples import require_images
from mmnas.errors import DataError

SIZE = 8  # D


def arrays(**changes):
    """Three regions of a 640 x 480 image, as the published files hold them."""
    x = np.arange(SIZE * 3, dtype=np.float32).reshape(SIZE, 3)
    bbox = np.array([[0, 0, 639, 479], [10.5, 20.5, 30, 40], [5, 5, 5, 5]], np.float32)
    return {"x": x, "bbox": bbox, "image_h": np.array(480), "image_w": np.array(640), **changes}


@pytest.fixture
def write(tmp_path):
    def write(name="COCO_train2014_000000000009.jpg.npz", leave_out=(), save=np.savez, **changes):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        save(path, **{key: value for key, value in arrays(**changes).items() if key not in leave_out})
        return path

    return write


# Reading


def check_regions(regions):
    expected = arrays()
    np.testing.assert_array_equal(regions.features, expected["x"].T)
    np.testing.assert_array_equal(regions.boxes, expected["bbox"])
    assert regions.image_size.tolist() == [480.0, 640.0]
    assert {regions.features.dtype, regions.boxes.dtype, regions.image_size.dtype} == {np.dtype(np.float32)}


def test_published_orientation(write):
    check_regions(read_npz(write(), SIZE))


def test_transposed_orientation(write):
    check_regions(read_npz(write(x=arrays()["x"].T), SIZE))


def test_compressed_file(write):
    check_regions(read_npz(write(save=np.savez_compressed), SIZE))


def test_other_keys_are_ignored_even_objects(write):
    check_regions(read_npz(write(info=np.array({"objects": 1}, dtype=object), num_bbox=np.array(3)), SIZE))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_become_float32(write, dtype):
    changed = {"x": arrays()["x"].astype(dtype), "bbox": arrays()["bbox"].astype(np.float64)}
    check_regions(read_npz(write(**changed), SIZE))


def test_sides_may_be_arrays_of_one_number(write):
    check_regions(read_npz(write(image_h=np.array([480.0]), image_w=np.array([[640]], np.int16)), SIZE))


def test_whole_number_boxes(write):
    boxes = np.array([[0, 0, 639, 479], [10, 20, 30, 40], [5, 5, 5, 5]])
    np.testing.assert_array_equal(read_npz(write(bbox=boxes), SIZE).boxes, boxes)


def test_a_box_may_pass_the_border_by_a_rounding(write):
    boxes = arrays()["bbox"]
    boxes[0] = [-1, -1, 641, 481]
    assert read_npz(write(bbox=boxes), SIZE).boxes[0].tolist() == [-1, -1, 641, 481]


# Faults


class Spy:
    """Notes when a pickle is undone."""

    opened = 0

    def __reduce__(self):
        return (Spy.note, ())

    @staticmethod
    def note():
        Spy.opened += 1
        return 0


def boxes_with(row):
    boxes = arrays()["bbox"]
    boxes[1] = row
    return boxes


def x_with(value):
    x = arrays()["x"].astype(np.float64)
    x[3, 1] = value
    return x


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.zeros((SIZE, 3), np.int64)}, "x is int64 (8, 3), expected floats (8, K) or (K, 8)"),
        ({"x": np.zeros((7, 3), np.float32)}, "x is float32 (7, 3), expected floats (8, K) or (K, 8)"),
        ({"x": np.zeros(SIZE, np.float32)}, "x is float32 (8,), expected"),
        ({"x": np.zeros((1, SIZE, 3), np.float32)}, "x is float32 (1, 8, 3), expected"),
        ({"x": np.zeros((SIZE, 0), np.float32), "bbox": np.zeros((0, 4))}, "x has no region"),
        ({"x": x_with(np.nan)}, "x holds NaN or infinite values"),
        ({"x": x_with(-np.inf)}, "x holds NaN or infinite values"),
        ({"x": x_with(1e300)}, "x holds NaN or infinite values"),
        ({"bbox": np.zeros((2, 4), np.float32)}, "bbox is float32 (2, 4), expected numbers (3, 4)"),
        ({"bbox": np.zeros((3, 5), np.float32)}, "bbox is float32 (3, 5), expected numbers (3, 4)"),
        ({"bbox": np.zeros((4, 3), np.float32)}, "bbox is float32 (4, 3), expected numbers (3, 4)"),
        ({"bbox": np.full((3, 4), "1")}, "bbox is <U1 (3, 4), expected numbers (3, 4)"),
        ({"bbox": boxes_with([10, 20, np.nan, 40])}, "lies outside the 640 x 480 image"),
        ({"bbox": boxes_with([10, 20, np.inf, 40])}, "lies outside the 640 x 480 image"),
        ({"bbox": boxes_with([10, 20, 700, 40])}, "bbox [10.0, 20.0, 700.0, 40.0] lies outside the 640"),
        ({"bbox": boxes_with([10, 20, 30, 500])}, "lies outside the 640 x 480 image"),
        ({"bbox": boxes_with([-9, 20, 30, 40])}, "lies outside the 640 x 480 image"),
        ({"bbox": boxes_with([30, 20, 10, 40])}, "[30.0, 20.0, 10.0, 40.0] is inverted; boxes are x1 y1 x2 y2"),
        ({"bbox": boxes_with([10, 40, 30, 20])}, "is inverted"),
        ({"image_h": np.array(0)}, "image_h must be one positive number of pixels"),
        ({"image_h": np.array(-480)}, "image_h must be one positive number of pixels"),
        ({"image_w": np.array(np.nan)}, "image_w must be one positive number of pixels"),
        ({"image_w": np.array([640, 640])}, "image_w must be one positive number of pixels"),
        ({"image_w": np.array("640")}, "image_w must be one positive number of pixels"),
    ],
)
def test_every_fault_is_one_line_that_names_the_file(write, changes, message):
    path = write(**changes)
    with pytest.raises(DataError) as caught:
        read_npz(path, SIZE)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize("key", ["x", "bbox", "image_h", "image_w"])
def test_missing_key(write, key):
    path = write(leave_out=[key])
    with pytest.raises(DataError) as caught:
        read_npz(path, SIZE)
    assert str(caught.value).startswith(f"{path} has no key {key}; ")


@pytest.mark.parametrize("key", ["x", "bbox", "image_h", "image_w"])
def test_objects_are_never_unpickled(write, key):
    path = write(**{key: np.array([Spy()], dtype=object)})
    with pytest.raises(DataError) as caught:
        read_npz(path, SIZE)
    assert str(path) in str(caught.value)
    assert Spy.opened == 0


def check_named_as_damaged(path):
    with pytest.raises(DataError) as caught:
        read_npz(path, SIZE)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_cut_anywhere(write, save):
    path = write(save=save)
    content = path.read_bytes()
    for length in range(0, len(content), 13):
        path.write_bytes(content[:length])
        check_named_as_damaged(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_byte_turned_anywhere_is_harmless_or_named(write, save):
    path = write(save=save)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for place, byte in zip(rng.integers(len(content), size=600), rng.integers(256, size=600), strict=True):
        path.write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
        try:
            read_npz(path, SIZE)
        except DataError as exception:  # what is left may still be a whole file, or its values may be off
            assert str(path) in str(exception)


@pytest.mark.parametrize("content", [b"", b"PK", b"<html>404</html>", b"\x80\x04K\x01.", bytes(1000)])
def test_what_is_no_npz(tmp_path, content):
    path = tmp_path / "1.npz"
    path.write_bytes(content)
    check_named_as_damaged(path)


def test_a_bare_array_under_the_name_of_an_npz(tmp_path):
    np.save(tmp_path / "array.npy", arrays()["x"])
    check_named_as_damaged((tmp_path / "array.npy").rename(tmp_path / "1.npz"))


def test_a_folder_under_the_name_of_an_npz(tmp_path):
    (tmp_path / "1.npz").mkdir()
    check_named_as_damaged(tmp_path / "1.npz")


# Names and folders


@pytest.mark.parametrize(
    ("name", "image_id"),
    [
        ("COCO_train2014_000000000009.jpg.npz", 9),
        ("COCO_val2014_000000581929.npz", 581929),
        ("1000092795.jpg.npz", 1000092795),
        ("262148.npz", 262148),
        ("_7.npz", 7),
        ("notes.npz", None),
        ("COCO_train2014_.npz", None),
        ("name_9.JPG.npz", 9),
        ("1000092795.jpg", 1000092795),
        ("9.webp.npz", 9),
        ("COCO_12_map.npz", None),
        ("COCO_train2014_000000581857_16.jpg.npz", None),
        ("COCO_train2014_000000581857.jpg_16.npz", None),
        ("000000581857_16.npz", None),
        ("COCO_train2014_000000000009 (1).npz", None),
        ("COCO_train2014_000000000009.jpg.npz.bak", None),
        ("9.old.npz", None),
        ("-9.npz", None),
        ("9.5.npz", None),
        (" 9.npz", None),
        ("9.npz\n", None),
        ("\u0669.npz", None),
        ("COCO_train2014_\uff19.npz", None),
        ("._COCO_train2014_9.npz", None),
        ("12a.npz", None),
        ("a12.npz", None),
        ("12", None),
    ],
)
def test_image_id_of_a_name(name, image_id):
    assert image_id_of(name) == image_id


@pytest.fixture
def folders(tmp_path, write):
    write("train2014/COCO_train2014_000000000009.jpg.npz")
    write("val2014/COCO_val2014_000000000042.jpg.npz")
    write("val2014/mean_box.npz")
    (tmp_path / "val2014" / "COCO_val2014_000000000077.jpg").touch()
    return NpzFolders([tmp_path / "train2014", tmp_path / "val2014"], SIZE)


def test_folders_are_read_by_image_id(folders):
    assert len(folders) == 2
    assert [image in folders for image in (9, 42, 77)] == [True, True, False]
    check_regions(folders[9])
    check_regions(folders[42])


@pytest.mark.parametrize("other", ["train2014/9.npz", "val2014/COCO_val2014_000000000009.jpg.npz"])
def test_two_files_of_one_image_are_named(tmp_path, write, other):
    first, second = write("train2014/COCO_train2014_000000000009.jpg.npz"), write(other)
    with pytest.raises(DataError, match="image 9 is in ") as caught:
        NpzFolders([tmp_path / "train2014", tmp_path / "val2014"], SIZE)
    assert str(first) in str(caught.value) and str(second) in str(caught.value)


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "9.npz")
    with pytest.raises(DataError, match=r"9\.npz is not a regular file; remove it"):
        NpzFolders([tmp_path], SIZE)[9]


def test_features_of_a_grid_are_told_that_boxes_are_needed(write):
    path = write(x=np.zeros((SIZE, 7, 7), np.float32), leave_out=["bbox"])
    with pytest.raises(DataError, match="has no key bbox; each region needs its box, which features of a grid"):
        read_npz(path, SIZE)


def test_nothing_is_read_before_it_is_asked_for(tmp_path, write):
    write("train2014/1.npz").write_bytes(b"damaged")
    folders = NpzFolders([tmp_path / "train2014"], SIZE)
    with pytest.raises(DataError, match=r"train2014/1\.npz is damaged"):
        folders[1]


def test_an_image_that_is_not_there_is_named_with_the_folders(folders, tmp_path):
    with pytest.raises(DataError) as caught:
        folders[77]
    assert "image 77" in str(caught.value)
    assert f"{tmp_path}/train2014, {tmp_path}/val2014" in str(caught.value)


def test_a_file_that_vanishes_is_named(folders, tmp_path):
    shutil.rmtree(tmp_path / "train2014")
    with pytest.raises(DataError, match=r"vanished: .*000000000009\.jpg\.npz; restore the file and --RESUME"):
        folders[9]


def test_missing_images_are_named_and_counted(folders, tmp_path):
    with pytest.raises(DataError) as caught:
        require_images(folders, [42, 100, 9, 77, 100, 300], "val questions")
    text = str(caught.value)
    assert text.startswith("no region features for image 77 and 2 more images of the val questions")
    assert str(tmp_path / "val2014") in text
    assert "--FEAT_PATH" in text


def test_one_missing_image(folders):
    with pytest.raises(DataError, match="no region features for image 5 of the training questions"):
        require_images(folders, [9, 5], "training questions")


def test_images_that_are_all_there(folders):
    require_images(folders, iter([9, 42, 9]), "training questions")


def test_folders_that_are_empty_or_absent(tmp_path):
    folders = NpzFolders([tmp_path / "absent"], SIZE)
    assert len(folders) == 0
    with pytest.raises(DataError, match="image 1 of"):
        require_images(folders, [1], "training questions")
