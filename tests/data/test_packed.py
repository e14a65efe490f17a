"""Reading packed stores: what they hold, and every way in which one can be unusable."""

import dataclasses
import gc
import json
import os
import pickle
import zlib

import lmdb
import numpy as np
import pytest
import torch

from mmnas.config import load_config
from mmnas.data import packed
from mmnas.data.features import NpzFolders
from mmnas.data.packed import PackedFeatures, packed_at, region_counts
from mmnas.data.packed_format import ENTRY, FORMAT, HEADER_KEY, Header, image_key
from mmnas.data.packing import pack
from mmnas.data.refs_features import grounding_features
from mmnas.data.samplers import EvaluationSampler
from mmnas.data.scan_precomp import matching_features
from mmnas.engine.loading import BatchLoader
from mmnas.errors import DataError
from mmnas.tasks.vqa import VQATask
from tests.data.packing_images import SIZE, check_image, write_images

IDS = [9, 42, 7, 581929]


@pytest.fixture
def path(tmp_path):
    pack([write_images(tmp_path / "npz", IDS)], tmp_path / "out.lmdb", feature_size=SIZE)
    return tmp_path / "out.lmdb"


# What a store holds


def test_a_store_gives_what_the_files_hold(path):
    store = PackedFeatures(path, SIZE)
    assert len(store) == 4
    assert [image_id in store for image_id in (*IDS, 8, 10**17, -1)] == [True] * 4 + [False] * 3
    assert store.describe() == str(path)
    for image_id in IDS:
        check_image(store[image_id], image_id)


def test_float16_is_given_as_float32(tmp_path):
    pack([write_images(tmp_path / "npz", IDS)], tmp_path / "out.lmdb", "float16", SIZE)
    store = PackedFeatures(tmp_path / "out.lmdb", SIZE)
    for image_id in IDS:
        check_image(store[image_id], image_id, np.float16)


def test_region_counts_come_from_the_manifest(path):
    replace(path, image_key(9), None)
    store = PackedFeatures(path, SIZE)
    assert store.region_counts([42, 9, 9, 7]).tolist() == [1, 1, 1, 2]
    assert region_counts(store, [7, 581929], most=1).tolist() == [1, 1]
    assert region_counts(NpzFolders([path.parent / "npz"], SIZE), [7], most=1) is None
    with pytest.raises(DataError, match="no region features for image 8; looked in"):
        store.region_counts([9, 8])


def test_an_image_that_is_not_there_is_named(path):
    with pytest.raises(DataError, match=r"no region features for image 8; looked in .*out\.lmdb"):
        PackedFeatures(path, SIZE)[8]


def test_a_store_is_pickled_as_its_path(path):
    store = PackedFeatures(path, SIZE)
    content = pickle.dumps(store)
    assert len(content) < 500
    check_image(pickle.loads(content)[42], 42)


# Memory


def test_arrays_outlive_the_store(path):
    kept = PackedFeatures(path, SIZE)[42]
    gc.collect()
    check_image(kept, 42)


def test_the_file_is_mapped_anew_only_while_no_array_is_in_use(path, monkeypatch):
    monkeypatch.setattr(packed, "_MAPPED", 0)
    store = PackedFeatures(path, SIZE)
    kept = store[42]
    before = store._map._environment
    check_image(store[9], 9)
    assert store._map._environment is before
    features = kept.features[:1]  # a view of a view
    del kept
    check_image(store[9], 9)
    assert store._map._environment is before
    del features
    check_image(store[9], 9)
    assert store._map._environment is not before


def test_a_file_is_mapped_once_however_many_read_it(path, tmp_path):
    (tmp_path / "link.lmdb").symlink_to(path)
    first, second = PackedFeatures(path, SIZE), PackedFeatures(tmp_path / "link.lmdb", SIZE)
    check_image(first[7], 7)
    check_image(second[7], 7)


def test_another_file_in_the_place_of_a_store_is_another_store(path, tmp_path):
    first = PackedFeatures(path, SIZE)
    path.unlink()
    pack([write_images(tmp_path / "other", [1, 2])], path, feature_size=SIZE)
    check_image(PackedFeatures(path, SIZE)[2], 2)
    check_image(first[7], 7)


# Faults


def refused(path, *message, feature_size=SIZE, kind="x"):
    with pytest.raises(DataError) as caught:
        PackedFeatures(path, feature_size, kind)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    for part in message:
        assert part in text


def replace(path, key, value):
    """Write a record, or delete it, and leave room behind the last page as the store's own writer does."""
    with lmdb.open(str(path), subdir=False, lock=False, map_size=2**26) as environment:
        with environment.begin(write=True) as transaction:
            transaction.delete(key) if value is None else transaction.put(key, value)
    os.truncate(path, 2**26)


def header_of(path):
    with lmdb.open(str(path), subdir=False, lock=False, readonly=True) as environment:
        with environment.begin() as transaction:
            return json.loads(transaction.get(HEADER_KEY))


def test_a_missing_store(tmp_path):
    refused(tmp_path / "out.lmdb", "no packed store at", "python -m mmnas pack-features")


@pytest.mark.parametrize("content", [b"", b"PK", b"<html>404</html>" * 1000, bytes(10**5)])
def test_what_is_no_store(tmp_path, content):
    (tmp_path / "out.lmdb").write_bytes(content)
    refused(tmp_path / "out.lmdb", "python -m mmnas pack-features")


def test_an_lmdb_of_something_else(path):
    path.unlink()
    with lmdb.open(str(path), subdir=False, lock=False) as environment:
        with environment.begin(write=True) as transaction:
            transaction.put(b"9", b"features")
    refused(path, "is cut", "or no store of region features", "python -m mmnas pack-features")
    os.truncate(path, 2**26)
    refused(path, "is no store of region features; make one by python -m mmnas pack-features")


def test_a_store_cut_anywhere(path):
    content = path.read_bytes()
    for length in (*range(0, 9 * 4096, 1111), len(content) - 1):
        path.write_bytes(content[:length])
        refused(path)


@pytest.mark.parametrize(("size", "kind"), [(4, "x"), (SIZE, "fc7+pool5")])
def test_a_store_of_another_width_or_kind(path, size, kind):
    refused(path, f"holds x features of width {SIZE}, needed are {kind} of {size}", feature_size=size, kind=kind)


def test_an_unfinished_store_is_refused_with_the_command_that_finishes_it(path, tmp_path):
    replace(path, HEADER_KEY, json.dumps({**header_of(path), "finished": False}).encode())
    command = f"python -m mmnas pack-features {tmp_path}/npz {path} --dtype float32 --feature-size {SIZE}"
    refused(path, "is unfinished, 4 images are in it", command)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "is no store of region features"),
        ({"version": 2}, "is of version 2 of the format"),
        ({"images": 5}, "manifest does not fit"),
        ({"regions": 5}, "manifest does not fit"),
        ({"checksum": 5}, "manifest does not fit"),
        ({"commits": 10**15}, "part 1 of its manifest is missing"),
        ({"commits": 0, "images": 0, "regions": 0, "checksum": 0}, "manifest does not fit"),
        ({"images": "many"}, "images must be of type int"),
        ({"kind": "y"}, "header: 'y'"),
        ({"dtype": "object"}, "header: 'x' 'object'"),
        ({"feature_size": 0}, "header: 'x' 'float32' 0"),
        ({"more": 1}, "unknown key more"),
    ],
)
def test_a_header_that_does_not_fit(path, changes, message):
    replace(path, HEADER_KEY, json.dumps({**header_of(path), **changes}).encode())
    refused(path, message)


@pytest.mark.parametrize("header", [b"", b"\xff", b"[1]", b"[" * 10**5, json.dumps(FORMAT).encode(), bytes(2**25)])
def test_a_header_that_is_none(path, header):
    replace(path, HEADER_KEY, header)
    refused(path)


@pytest.mark.parametrize("entries", [None, b"", bytes(15), bytes(17 * 2**20)])
def test_a_manifest_that_is_missing_or_cut(path, entries):
    replace(path, b"entries/00000000", entries)
    refused(path, "is damaged (part 0 of its manifest is missing or cut); copy it again")


@pytest.mark.parametrize("regions", [[2**31 - 1], [0], [-1], [1, 1]])
def test_absurd_counts_are_refused_before_any_memory_is_taken(path, regions):
    entries = np.array([(9, count, 0) for count in regions], ENTRY)
    header = Header(**{key: value for key, value in header_of(path).items() if key not in ("format", "version")})
    header = dataclasses.replace(
        header, images=len(regions), regions=sum(regions), checksum=zlib.crc32(entries.tobytes())
    )
    replace(path, b"entries/00000000", entries.tobytes())
    replace(path, HEADER_KEY, header.encode())
    if regions == [2**31 - 1]:
        store = PackedFeatures(path, SIZE)
        with pytest.raises(DataError, match="image 9 is missing or cut"):
            store[9]
    else:
        refused(path, "manifest does not fit")


@pytest.mark.parametrize("value", [None, b"", bytes(7), bytes(2**20)])
def test_a_value_that_is_missing_or_of_another_size(path, value):
    replace(path, image_key(9), value)
    store = PackedFeatures(path, SIZE)
    check_image(store[7], 7)
    with pytest.raises(DataError, match=r"out\.lmdb is damaged \(image 9 is missing or cut\); copy it again"):
        store[9]


# In the place of folders


def test_only_a_file_is_taken_for_a_store(path):
    assert packed_at(None, SIZE) is None
    assert packed_at(path.parent, SIZE) is None
    assert packed_at(path.parent / "absent", SIZE) is None
    check_image(packed_at(path, SIZE)[7], 7)


@pytest.fixture(scope="module")
def packed_world(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    for source in ("coco_extract", "detfeat100_woref", "flickr_rois_resnet101_fix36"):
        pack([world / source], folder / f"{source}.lmdb")
    return folder


def batches(world, features, workers):
    overrides = {"paths.data": str(world), "paths.features": features, "data.answer_min_count": 2}
    task = VQATask(load_config("vqa", "tiny", split="train", version="x", overrides=overrides))
    task.vocabularies = task.build_vocabularies()
    dataset = task.evaluation_set("val")
    sampler = EvaluationSampler(len(dataset), 64)
    return list(BatchLoader(dataset, sampler, workers, torch.device("cpu")))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_to_the_bit(world, packed_world, workers):
    expected = batches(world, None, 0)
    loaded = batches(world, str(packed_world / "coco_extract.lmdb"), workers)
    assert len(loaded) == len(expected) == 3
    for batch, other in zip(loaded, expected, strict=True):
        assert batch.keys() == other.keys()
        assert all(batch[name].dtype == other[name].dtype for name in batch)
        assert all(torch.equal(batch[name], other[name]) for name in batch)


def test_grounding_and_matching_read_stores_too(world, packed_world):
    found = grounding_features(world, packed_world / "detfeat100_woref.lmdb", "refcoco", "coco_mrcn", 3072)
    folder = grounding_features(world, None, "refcoco", "coco_mrcn", 3072)
    matched = matching_features(world, packed_world / "flickr_rois_resnet101_fix36.lmdb", "flickr", 2048)
    image_id = found._image_ids[0]
    np.testing.assert_array_equal(found[image_id].features, folder[image_id].features)
    assert matched[matched._image_ids[0]].features.shape == (36, 2048)
    with pytest.raises(DataError, match="needed are x of 2048"):
        grounding_features(world, packed_world / "detfeat100_woref.lmdb", "refcoco", "vg_woref", 2048)


def test_samples_know_their_counts_where_the_store_does(world, packed_world):
    for features, known in ((None, False), (str(packed_world / "coco_extract.lmdb"), True)):
        overrides = {"paths.data": str(world), "paths.features": features, "data.answer_min_count": 2}
        task = VQATask(load_config("vqa", "tiny", split="train", version="x", overrides=overrides))
        task.vocabularies = task.build_vocabularies()
        dataset = task.evaluation_set("val")
        counts = dataset.region_counts()
        assert (counts is not None) == known
    assert counts.tolist() == [len(dataset[index]["boxes"]) for index in range(len(dataset))]
