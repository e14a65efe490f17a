"""What made features is noted in folders, files and stores, and features made otherwise are refused beside them."""

import json
import tarfile

import numpy as np
import pytest

from mmnas.data.features import NpzFolders
from mmnas.data.made_by import MADE_BY_FILE, Choice, MadeBy
from mmnas.data.store import FeatureStore
from mmnas.data.store_writer import pack
from mmnas.errors import DataError
from tests.data.packing_images import SIZE, image_arrays, write_images

ONE = MadeBy("1" * 64, Choice(10, 100, 0.2), "float32")
OTHER = MadeBy("1" * 64, Choice(36, 36, 0.2), "float32")  # the same detector with other settings
BOTH = r"36 to 36 regions at threshold 0.2.* 10 to 100 regions at threshold 0.2.*must not be mixed"


def folder_of(path, image_ids, made_by, note=True):
    """A folder of images whose files, and with `note` the folder, say what made them."""
    write_images(path, image_ids)
    for file in path.glob("*.npz"):
        image_id = int(file.name.split("_")[-1].split(".")[0])
        np.savez(file, **image_arrays(image_id), detector=made_by.to_json())
    if note:
        (path / MADE_BY_FILE).write_text(made_by.to_json())
    return path


def test_a_folder(tmp_path):
    source = NpzFolders([folder_of(tmp_path / "a", [1, 2], ONE)], SIZE)
    assert source.made_by == ONE and source[1].made_by == ONE
    assert str(ONE) == f"detector {'1' * 64}, 10 to 100 regions at threshold 0.2, float32"
    assert "given boxes" in str(MadeBy("1", None, "float32"))


def test_downloaded_features_go_with_any(tmp_path):
    unknown = write_images(tmp_path / "downloaded", [1, 2])
    assert NpzFolders([unknown], SIZE).made_by is None
    source = NpzFolders([unknown, folder_of(tmp_path / "a", [3], ONE)], SIZE)
    assert source[1].made_by is None and source[3].made_by == source.made_by == ONE


def test_two_folders_made_otherwise(tmp_path):
    folders = [folder_of(tmp_path / "a", [1], ONE), folder_of(tmp_path / "b", [2], OTHER)]
    with pytest.raises(DataError, match=f"b holds features of .*{BOTH}"):
        NpzFolders(folders, SIZE)


def test_a_file_that_was_copied_into_a_folder(tmp_path):
    folder_of(tmp_path / "a", [1], ONE)
    folder_of(tmp_path / "a", [2], OTHER, note=False)
    np.savez(tmp_path / "a" / "1.npz", **image_arrays(1), detector=ONE.to_json())
    (tmp_path / "a" / "COCO_train2014_000000000001.jpg.npz").unlink()
    source = NpzFolders([tmp_path / "a"], SIZE)
    assert source[1].made_by == ONE
    with pytest.raises(DataError, match=f"000000000002.jpg.npz holds features of .*{BOTH}"):
        source[2]


def archive_of(folder):
    path = folder.with_suffix(".tar.gz")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    return path


@pytest.mark.parametrize("form", [lambda folder: folder, archive_of, lambda folder: next(folder.glob("*.npz"))])
def test_a_packed_store(form, tmp_path):
    out = tmp_path / "out.features"
    source = form(folder_of(tmp_path / "a", [1], ONE))
    pack([source, write_images(tmp_path / "unknown", [3])], out, feature_size=SIZE)
    assert FeatureStore(out).made_by == ONE
    assert json.loads((out / "store.json").read_text())["made_by"]["detector"] == "1" * 64
    with pytest.raises(DataError, match=BOTH):
        pack([source, folder_of(tmp_path / "b", [2], OTHER)], tmp_path / "mixed.features", feature_size=SIZE)


def test_stores_of_downloaded_features_and_of_earlier_releases(tmp_path):
    out = tmp_path / "out.features"
    pack([write_images(tmp_path / "a", [1])], out, feature_size=SIZE)
    assert FeatureStore(out).made_by is None
    header = json.loads((out / "store.json").read_text())
    del header["made_by"]
    (out / "store.json").write_text(json.dumps(header))
    assert FeatureStore(out).made_by is None


@pytest.mark.parametrize("text", ["{", '{"detector": 7}', '{"detector": "\\n", "choice": null, "precision": "a"}'])
def test_a_damaged_note_is_one_line(text, tmp_path):
    folder = folder_of(tmp_path / "a", [1], ONE)
    (folder / MADE_BY_FILE).write_text(text)
    with pytest.raises(DataError, match=MADE_BY_FILE):
        NpzFolders([folder], SIZE)
    (folder / MADE_BY_FILE).unlink()
    np.savez(folder / "COCO_train2014_000000000001.jpg.npz", **image_arrays(1), detector=text)
    with pytest.raises(DataError, match="000000000001.jpg.npz is damaged"):
        NpzFolders([folder], SIZE)[1]
