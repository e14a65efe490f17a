"""Features in memory or on the device: batches and runs are those of the disk, and what does not fit is refused."""

import logging
import os
import pickle
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from mmnas.config import load_config
from mmnas.data.samplers import TrainingSampler
from mmnas.data.store import FEATURES, FeatureStore
from mmnas.data.store_writer import pack
from mmnas.engine import placement
from mmnas.engine.checkpoint import load_checkpoint
from mmnas.engine.distributed import Group, launch
from mmnas.engine.loading import BatchLoader, dismiss_workers
from mmnas.engine.placement import choose, free_memory, place_features, store_of
from mmnas.engine.trainer import Trainer
from mmnas.errors import ConfigError, DataError
from mmnas.tasks import task_named

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SOURCES = {"vqa": "coco_extract", "vgd": "detfeat100_woref", "itm": "flickr_rois_resnet101_fix36"}


@pytest.fixture(scope="module")
def stores(few_images, tmp_path_factory):
    """The features of a demo world for each task, packed; in float16 for VQA, as is usual."""
    folder = tmp_path_factory.mktemp("stores")
    for name, source in SOURCES.items():
        pack([few_images / source], folder / name, "float16" if name == "vqa" else "float32")
    return folder


def task_of(name, world, features, **settings):
    overrides = {"paths.data": str(world), "paths.features": str(features)} | settings
    overrides |= {"data.feature_kind": "coco_mrcn"} if name == "vgd" else {"data.answer_min_count": 1}
    kind = task_named(name)
    task = kind(kind.settle(load_config(name, "tiny", split="train", version="x", overrides=overrides)))
    task.vocabularies = task.build_vocabularies()
    return task


def batches(task, workers=0):
    """All batches of an epoch, as training loads them."""
    dataset = task.training_set()
    if task.name == "itm":
        dataset.negatives.copy_(torch.arange(len(dataset))[:, None] * torch.tensor([3, 1]) % len(dataset.images))
    place_features(task, dataset, Group())
    sampler = TrainingSampler(len(dataset), 16, seed=0)
    try:
        return list(BatchLoader(dataset, sampler, workers, CPU))
    finally:
        dismiss_workers()


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize(("place", "workers"), [("memory", 0), ("memory", 1), ("device", 0)])
def test_batches_are_the_same_to_the_bit(few_images, stores, name, place, workers):
    expected = batches(task_of(name, few_images, stores / name))
    found = batches(task_of(name, few_images, stores / name, **{"training.features": place}), workers)
    assert len(found) == len(expected) > 3
    for batch, other in zip(found, expected, strict=True):
        assert batch.keys() == other.keys() and batch["features"].dtype == torch.float32
        for key in batch:
            assert batch[key].dtype == other[key].dtype and torch.equal(batch[key], other[key]), key


def test_samples_of_a_placed_store_hold_row_numbers(few_images, stores):
    task = task_of("vqa", few_images, stores / "vqa", **{"training.features": "memory"})
    dataset = task.training_set()
    place_features(task, dataset, Group())
    store, features = dataset.regions, dataset[0]["features"]
    plain = FeatureStore(store.path)[int(dataset.image_ids[0])].features
    assert np.array_equal(store.table[features].float(), plain[: len(features)])
    copy = pickle.loads(pickle.dumps(store))  # as workers that are not forked get it
    assert copy.table is None and np.array_equal(
        copy[int(dataset.image_ids[0])].features[: len(features)], features
    )


def test_splits_of_one_store_share_a_table(few_images, stores, caplog):
    caplog.set_level(logging.INFO, "mmnas")
    task = task_of("vqa", few_images, stores / "vqa", **{"training.features": "memory"})
    one, other = task.training_set(), task.evaluation_set("val")
    for dataset in one, other:
        place_features(task, dataset, Group())
    assert store_of(one).table is store_of(other).table is not None
    (line,) = [line for line in caplog.messages if "features are read" in line]
    assert line.startswith("features are read from memory: they take 0.0")


# Damage


@pytest.fixture
def store(stores, tmp_path):
    return shutil.copytree(stores / "vqa", tmp_path / "store")


def test_features_that_are_not_numbers_are_named_when_their_image_is_read(few_images, store):
    path = store / FEATURES
    values = np.fromfile(path, "<f2")
    values[-1] = np.nan
    values.tofile(path)
    opened = FeatureStore(store)
    last = int(opened.image_ids[opened._first.argmax()])
    messages = []
    for place in "stream", "memory":
        task = task_of("vqa", few_images, store, **{"training.features": place})
        dataset = task.training_set()
        place_features(task, dataset, Group())
        assert len(dataset.regions[int(dataset.regions.image_ids[0])].features)
        with pytest.raises(DataError) as caught:
            dataset.regions[last]
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and "holds NaN or infinite values" in messages[0]


def test_a_file_that_is_cut_while_it_is_mapped_is_named(few_images, store):
    task = task_of("vqa", few_images, store, **{"training.features": "memory"})
    dataset = task.training_set()
    place_features(task, dataset, Group())
    loader = iter(BatchLoader(dataset, [[0], [1]], 0, CPU))
    next(loader)
    os.truncate(store / FEATURES, 4096)
    with pytest.raises(DataError, match="truncated while in use.*copy the store again"):
        next(loader)


# The choice


@pytest.mark.parametrize(
    ("asked", "device", "gpu", "memory", "place", "reason"),
    [
        (None, CPU, 0, 99e9, "stream", "on a CPU, reading is hidden behind the steps"),
        (None, GPU, 80e9, 99e9, "device", "they take 18.70 GB, and the device's memory has 80.00 GB free"),
        (None, GPU, 24e9, 99e9, "stream", "18.70 GB, and the device's memory has 24.00 GB free, half of it for"),
        ("device", GPU, 24e9, 0, "device", "they take 18.70 GB"),
        ("memory", GPU, 0, 20e9, "memory", "they take 18.70 GB, and memory has 20.00 GB free"),
        ("device", CPU, 0, 20e9, "device", "they take 18.70 GB"),
        ("stream", GPU, 80e9, 99e9, "stream", "as --FEATURES says"),
    ],
)
def test_the_fastest_place_with_room_is_taken_and_the_reason_said(
    monkeypatch, asked, device, gpu, memory, place, reason
):
    monkeypatch.setattr(placement, "free_memory", lambda where: int(gpu if where.type == "cuda" else memory))
    found, why = choose(int(18.7e9), asked, device)
    assert found == place and reason in why


@pytest.mark.parametrize(("asked", "where"), [("memory", "memory"), ("device", "the device's memory")])
def test_what_does_not_fit_is_refused_before_it_is_loaded(few_images, stores, monkeypatch, asked, where):
    monkeypatch.setattr(placement, "free_memory", lambda _: 10**4)
    monkeypatch.setattr(FeatureStore, "map_features", None)
    task = task_of("itm", few_images, stores / "itm", **{"training.features": asked})
    with pytest.raises(ConfigError) as caught:
        place_features(task, task.training_set(), Group())
    size = (stores / "itm" / FEATURES).stat().st_size / 1e9
    expected = f"--FEATURES={asked} has no room: they take {size:.2f} GB, and {where} has 0.00 GB free; use "
    assert str(caught.value).startswith(expected) and "\n" not in str(caught.value)


def test_folders_of_files_are_streamed(few_images):
    task = task_of("vqa", few_images, few_images / "coco_extract", **{"training.features": "memory"})
    with pytest.raises(ConfigError, match="--FEATURES=memory needs packed features: .* pack-features"):
        place_features(task, task.training_set(), Group())
    task = task_of("vqa", few_images, few_images / "coco_extract")
    dataset = task.training_set()
    place_features(task, dataset, Group())
    assert store_of(dataset) is None


def test_free_memory_is_what_the_system_can_give():
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free_memory(CPU) <= physical


# Whole runs


def flags(stores, *more):
    return [f"--FEAT_PATH={stores}/vqa", "--MAX_EPOCH=2", "--BS=16", *more]


@pytest.fixture
def place(place, few_images):
    place.data = few_images
    return place


def test_a_run_is_the_same_wherever_features_lie_and_resumes_elsewhere(place, run, stores, monkeypatch):
    """Stopped within the second epoch by a signal, as by Ctrl-C; where features lie is no setting of the run."""
    assert run(place, *place.train_flags("disk", *flags(stores))).code == 0
    step = Trainer._take_step

    def interrupting(self, batch, number, rate):
        if number == 1 + len(self.sampler):
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch, number, rate)

    monkeypatch.setattr(Trainer, "_take_step", interrupting)
    stopped = run(place, *place.train_flags("table", *flags(stores, "--FEATURES=memory")))
    assert stopped.code == 130 and "features are read from memory" in stopped.output
    monkeypatch.setattr(Trainer, "_take_step", step)
    resumed = run(place, "--RUN=train", "--RESUME", "--VERSION=table", f"--FEAT_PATH={stores}/vqa")
    assert resumed.code == 0 and "features are read from the disk: on a CPU" in resumed.output
    disk, table = (load_checkpoint(place.checkpoint(version, "epoch2.pkl")) for version in ("disk", "table"))
    assert disk.history == table.history
    assert all(torch.equal(value, table.model[name]) for name, value in disk.model.items())
    scored = run(place, "--RUN=val", "--VERSION=table", f"--FEAT_PATH={stores}/vqa", "--FEATURES=device")
    assert scored.code == 0 and "features are read from the device's memory" in scored.output


def _compare(group, world, store, out):
    """Compare one process's share of an epoch from the disk and from memory; note what memory it has of its own."""
    held = {}
    for place in "stream", "memory":
        task = task_of("vqa", world, store, **{"training.features": place})
        dataset = task.training_set()
        place_features(task, dataset, group)
        held[place] = list(BatchLoader(dataset, TrainingSampler(len(dataset), 8, 0, group.rank, 2), 0, CPU))
    for batch, other in zip(held["stream"], held["memory"], strict=True):
        assert all(torch.equal(batch[name], other[name]) for name in batch)
    of_file = Path("/proc/self/smaps").read_text().split(str(store / FEATURES))[1]
    (out / str(group.rank)).write_text(re.search(r"Private_Dirty: +(\d+) kB", of_file)[1])
    return 0


def test_processes_map_one_table_and_copy_nothing_of_it(few_images, stores, tmp_path):
    assert launch(_compare, "cpu,cpu", few_images, stores / "vqa", tmp_path) == 0
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["0", "0"]
