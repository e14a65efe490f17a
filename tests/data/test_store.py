"""Reading feature stores: what they hold, and every way in which one can be unusable."""

import gc
import json
import multiprocessing
import os
import pickle
import shutil
import zlib

import numpy as np
import pytest
import torch

from mmnas.config import load_config
from mmnas.data.features import NpzFolders
from mmnas.data.samplers import EvaluationSampler
from mmnas.data.sources import grounding_features, matching_features
from mmnas.data.store import (
    BOXES,
    ENTRY,
    FEATURES,
    HEADER,
    INDEX,
    FeatureStore,
    checksum,
    open_store,
    region_counts,
)
from mmnas.data.store_writer import pack, verify
from mmnas.engine.loading import BatchLoader
from mmnas.errors import DataError
from mmnas.tasks.vqa import VQATask
from tests.data.packing_images import SIZE, check_image, write_images

IDS = [9, 42, 7, 581929]


@pytest.fixture
def path(tmp_path):
    pack([write_images(tmp_path / "npz", IDS)], tmp_path / "out.features", feature_size=SIZE)
    return tmp_path / "out.features"


# What a store holds


def test_a_store_gives_what_the_files_hold(path):
    store = FeatureStore(path)
    assert len(store) == 4
    assert [image_id in store for image_id in (*IDS, 8, 10**17, -1)] == [True] * 4 + [False] * 3
    assert store.describe() == str(path)
    for image_id in IDS:
        check_image(store[image_id], image_id)


def test_float16_is_given_as_float32(tmp_path):
    pack([write_images(tmp_path / "npz", IDS)], tmp_path / "out.features", "float16", SIZE)
    store = FeatureStore(tmp_path / "out.features")
    for image_id in IDS:
        check_image(store[image_id], image_id, np.float16)


def test_region_counts_come_from_the_index(path):
    store = FeatureStore(path)
    assert store.region_counts([42, 9, 9, 7]).tolist() == [1, 1, 1, 2]
    assert region_counts(store, [7, 581929], most=1).tolist() == [1, 1]
    assert region_counts(NpzFolders([path.parent / "npz"], SIZE), [7], most=1) is None
    with pytest.raises(DataError, match="no region features for image 8; looked in"):
        store.region_counts([9, 8])


def test_an_image_that_is_not_there_is_named(path):
    with pytest.raises(DataError, match=r"no region features for image 8; looked in .*out\.features"):
        FeatureStore(path)[8]


def test_a_store_is_pickled_as_its_path(path):
    store = FeatureStore(path)
    content = pickle.dumps(store)
    assert len(content) < 500
    check_image(pickle.loads(content)[42], 42)


# Processes


def test_arrays_outlive_the_store(path):
    kept = FeatureStore(path)[42]
    gc.collect()
    check_image(kept, 42)


def check_all(store):
    for image_id in IDS * 50:
        check_image(store[image_id], image_id)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_read_one_store_at_once(path, method):
    store, context = FeatureStore(path), multiprocessing.get_context(method)
    processes = [context.Process(target=check_all, args=(store,)) for _ in range(3)]
    for process in processes:
        process.start()
    check_all(store)
    for process in processes:
        process.join()
        assert process.exitcode == 0


def test_another_store_in_its_place_leaves_an_open_one_as_it_is(path, tmp_path):
    first = FeatureStore(path)
    shutil.rmtree(path)
    pack([write_images(tmp_path / "other", [1, 2])], path, feature_size=SIZE)
    check_image(FeatureStore(path)[2], 2)
    check_image(first[7], 7)


# Faults


def refused(path, *message):
    with pytest.raises(DataError) as caught:
        FeatureStore(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    for part in message:
        assert part in text


def header_of(path):
    return json.loads((path / HEADER).read_text())


def change_header(path, **changes):
    (path / HEADER).write_text(json.dumps({**header_of(path), **changes}))


def test_a_missing_store(tmp_path):
    refused(tmp_path / "out.features", "no feature store at", "python -m mmnas pack-features")


def test_a_store_of_an_earlier_version_says_how_to_pack_again(tmp_path):
    (tmp_path / "out.lmdb").write_bytes(bytes(10**4))
    refused(tmp_path / "out.lmdb", ".lmdb stores of earlier versions", "pack the features again by python -m mmnas")
    with pytest.raises(DataError, match="pack the features again"):
        open_store(tmp_path / "out.lmdb", SIZE)


@pytest.mark.parametrize("name", [FEATURES, BOXES, INDEX, HEADER])
def test_a_file_that_is_missing_cut_or_longer_is_named(path, name):
    content = (path / name).read_bytes()
    for changed in [content[:length] for length in range(0, len(content), 7)] + [content + b"more"]:
        (path / name).write_bytes(changed)
        refused(path, name, "copy the store again, or delete it and pack the features again")
    (path / name).unlink()
    refused(path, "no feature store at" if name == HEADER else name)
    with pytest.raises(DataError):
        open_store(path, SIZE)


@pytest.mark.parametrize("name", [FEATURES, BOXES])
def test_a_file_that_is_cut_while_it_is_read_is_named(path, name):
    store = FeatureStore(path)
    os.truncate(path / name, (path / name).stat().st_size - 1)
    for image_id in IDS[:3]:
        check_image(store[image_id], image_id)
    with pytest.raises(DataError, match=f"{name} is damaged .truncated while in use.; copy the store again"):
        np.asarray(store[IDS[3]].features)


@pytest.mark.parametrize(("size", "kind"), [(4, "x"), (SIZE, "fc7+pool5")])
def test_a_store_of_another_width_or_kind(path, size, kind):
    with pytest.raises(DataError, match="holds x features of width 8, but ") as caught:
        open_store(path, size, kind)
    assert f"but {kind} of {size} are needed" in str(caught.value)


def test_an_unfinished_store_is_refused_with_the_command_that_finishes_it(path, tmp_path):
    change_header(path, finished=False)
    command = f"python -m mmnas pack-features {tmp_path}/npz {path} --dtype float32 --feature-size {SIZE}"
    refused(path, "is unfinished (4 images so far)", command)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "format: invalid enum value"),
        ({"format": "mmnas features 3"}, "format: invalid enum value"),
        ({"images": 3}, "index.bin is damaged (96 bytes, expected 72)"),
        ({"images": 5}, "index.bin is damaged (96 bytes, expected 120)"),
        ({"regions": 5}, "features.bin is damaged (192 bytes, expected 160)"),
        ({"checksum": 5}, "does not match the counts and checksum"),
        ({"images": 0, "regions": 0, "checksum": 0}, "is unfinished (0 images so far)"),
        ({"images": "many"}, "images: expected int, got str"),
        ({"images": -1}, "images: expected int"),
        ({"images": 2**70}, "images: "),
        ({"kind": "y"}, "kind: invalid enum value"),
        ({"dtype": "object"}, "dtype: invalid enum value"),
        ({"dtype": "float16"}, "features.bin is damaged (192 bytes, expected 96)"),
        ({"feature_size": 7}, "features.bin is damaged (192 bytes, expected 168)"),
        ({"feature_size": -1}, "feature_size: expected int"),
    ],
)
def test_a_header_that_does_not_fit(path, changes, message):
    change_header(path, **changes)
    refused(path, message)


def test_a_header_may_say_more(path):
    change_header(path, detector="resnet")
    assert len(FeatureStore(path)) == 4


@pytest.mark.parametrize(
    "header", [b"", b"\xff", b"[1]", b"[" * 10**5, b"{}", bytes(2**25), b'"\xff"', b'{"a\xff": 1}']
)
def test_a_header_that_is_none(path, header):
    (path / HEADER).write_bytes(header)
    refused(path, "store.json", "is damaged")


@pytest.mark.parametrize("regions", [[2**31 - 1], [0], [-1], [1, 1]])
def test_absurd_counts_are_refused_before_any_memory_is_taken(path, regions):
    entries = np.array([(9, count, 0, 0, 0) for count in regions], ENTRY)
    (path / INDEX).write_bytes(entries.tobytes())
    counts = {"images": len(regions), "regions": abs(sum(regions)), "checksum": zlib.crc32(entries.tobytes())}
    change_header(path, **counts)
    for name, size in ((FEATURES, 4 * SIZE), (BOXES, 16)):
        os.truncate(path / name, counts["regions"] * size)
    refused(path, "index.bin is damaged (it does not match the counts and checksum in store.json)")


@pytest.mark.parametrize("name", [FEATURES, BOXES, INDEX])
@pytest.mark.parametrize("value", [np.nan, np.inf, -1e4])
def test_what_no_image_can_hold_is_refused_when_it_is_read(path, name, value):
    """As in npz files, by the same function; the counts and checksums are those of the content."""
    values = np.fromfile(path / name, ENTRY if name == INDEX else "<f4")
    (values["height"] if name == INDEX else values)[0] = value
    values.tofile(path / name)
    entries = np.fromfile(path / INDEX, ENTRY)
    change_header(path, checksum=zlib.crc32(entries.data))
    first = int(entries["image"][0])
    entries["crc32"][0] = checksum(FeatureStore(path).read(first))
    entries.tofile(path / INDEX)
    change_header(path, checksum=zlib.crc32(entries.data))
    if (name, value) == (FEATURES, -1e4):  # a feature may be any number
        assert FeatureStore(path)[first].features.min() == value
        return
    for read in (lambda: FeatureStore(path)[first], lambda: verify(path)):
        with pytest.raises(DataError, match=f"{path}, image {first}: (x holds NaN|bbox .* lies outside|image_h)"):
            read()


# In the place of folders


def test_only_a_folder_with_a_store_is_taken_for_one(path):
    assert open_store(None, SIZE) is None
    assert open_store(path.parent, SIZE) is None
    assert open_store(path.parent / "absent", SIZE) is None
    check_image(open_store(path, SIZE)[7], 7)


@pytest.fixture(scope="module")
def packed_world(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    for source in ("coco_extract", "detfeat100_woref", "flickr_rois_resnet101_fix36"):
        pack([world / source], folder / f"{source}.features")
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
    loaded = batches(world, str(packed_world / "coco_extract.features"), workers)
    assert len(loaded) == len(expected) == 3
    for batch, other in zip(loaded, expected, strict=True):
        assert batch.keys() == other.keys()
        assert all(batch[name].dtype == other[name].dtype for name in batch)
        assert all(torch.equal(batch[name], other[name]) for name in batch)


def test_grounding_and_matching_read_stores_too(world, packed_world):
    found = grounding_features(world, packed_world / "detfeat100_woref.features", "refcoco", "coco_mrcn", 3072)
    folder = grounding_features(world, None, "refcoco", "coco_mrcn", 3072)
    matched = matching_features(world, packed_world / "flickr_rois_resnet101_fix36.features", "flickr", 2048)
    image_id = found.image_ids[0]
    np.testing.assert_array_equal(found[image_id].features, folder[image_id].features)
    assert matched[matched.image_ids[0]].features.shape == (36, 2048)
    with pytest.raises(DataError, match="but x of 2048 are needed"):
        grounding_features(world, packed_world / "detfeat100_woref.features", "refcoco", "vg_woref", 2048)


def test_samples_know_their_counts_where_the_store_does(world, packed_world):
    for features, known in ((None, False), (str(packed_world / "coco_extract.features"), True)):
        overrides = {"paths.data": str(world), "paths.features": features, "data.answer_min_count": 2}
        task = VQATask(load_config("vqa", "tiny", split="train", version="x", overrides=overrides))
        task.vocabularies = task.build_vocabularies()
        dataset = task.evaluation_set("val")
        counts = dataset.region_counts()
        assert (counts is not None) == known
    assert counts.tolist() == [len(dataset[index]["boxes"]) for index in range(len(dataset))]
