"""Batches per second from the loader: a feature store against compressed npz files.

    python3 -m benchmarks.loader

VQA-like samples of 10 to 100 regions (mean 37) of 2048 floats in batches of 64, through the loader of training
with one worker. The store is loaded as training does, in batches of about one region count, which it knows from
its index; `memory` is the same with --FEATURES=memory. The published way reads compressed npz files, pads to 100
regions and makes a relation matrix per sample; `npz` is this project's loader on the same files. All forms load the
same images in turns, so that whatever else the machine does meets all; all files are in the system's cache.
"""

import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from benchmarks.published import published_batch
from benchmarks.timing import Row
from mmnas.data.features import NpzFolders, RegionSource
from mmnas.data.samplers import TrainingSampler
from mmnas.data.store import FeatureStore, region_counts
from mmnas.data.store_writer import pack
from mmnas.engine.distributed import Group
from mmnas.engine.loading import BatchLoader, dismiss_workers
from mmnas.engine.placement import load_table

IMAGES, QUESTIONS, WIDTH, BATCH, ROUNDS = 640, 2, 2048, 64, 3


class Images(Dataset):
    """The images of a source, from 1 on, with a few tokens each, as a task gives them."""

    def __init__(self, source: RegionSource, images: int) -> None:
        self.regions, self.images = source, images

    def __len__(self) -> int:
        return QUESTIONS * self.images

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        image = self.regions[index % self.images + 1]
        return {
            "features": image.features,
            "boxes": image.boxes,
            "image_sizes": image.image_size,
            "tokens": np.arange(1, 8),
            "index": np.int64(index),
        }


class PublishedImages(Images):
    """The same, padded and with relation matrices as published."""

    def collate(self, samples: Sequence[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        """Return a batch as published."""
        return published_batch(samples, tokens=14)


def write_images(folder: Path, images: int, save: Callable[..., None] = np.savez_compressed) -> None:
    """Write npz files of 10 to 100 regions, about 37 in the mean; features are positive, as those of a ReLU are."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for image_id, count in enumerate(np.clip(rng.gamma(2.0, 13.8, images) + 10, 10, 100).astype(int), start=1):
        x = rng.standard_exponential((WIDTH, count), np.float32)
        corners = rng.uniform(0, 400, (count, 2))
        boxes = np.concatenate([corners, corners + 50], axis=1).astype(np.float32)
        save(folder / f"{image_id}.npz", x=x, bbox=boxes, image_h=480, image_w=640)


def loader_of(images: Images, lengths: np.ndarray | None = None) -> tuple[BatchLoader, TrainingSampler]:
    """The loader of training, and its sampler."""
    sampler = TrainingSampler(len(images), BATCH, seed=0, lengths=lengths)
    return BatchLoader(images, sampler, workers=1, device=torch.device("cpu")), sampler


def epoch_rate(loader: BatchLoader, sampler: TrainingSampler, epoch: int) -> float:
    """Batches per second of one epoch, each value of whose features is read once."""
    sampler.start(epoch)
    start = time.perf_counter()
    assert all(batch["features"].sum() > 0 for batch in loader)
    return len(sampler) / (time.perf_counter() - start)


def measure(rounds: int, images: int = IMAGES) -> list[list[float]]:
    """Return for each round the batches per second from the store, from memory, from npz, and the published way."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        write_images(root / "npz", images)
        pack([root / "npz"], root / "features")
        store, table = (FeatureStore(root / "features") for _ in range(2))
        load_table(table, Group(), in_place=True)
        counts = region_counts(store, range(1, images + 1), 100)
        folder = NpzFolders([root / "npz"], WIDTH)
        forms = [loader_of(Images(each, images), np.tile(counts, QUESTIONS)) for each in (store, table)]
        forms += [loader_of(form(folder, images)) for form in (Images, PublishedImages)]
        try:
            rates = [[epoch_rate(*form, epoch) for form in forms] for epoch in range(rounds + 1)]
        finally:
            dismiss_workers()
    return rates[1:]  # the first starts the workers


def rows(quick: bool = False) -> list[Row]:
    """Compare the store with the published way."""
    here, _, _, there = zip(*(measure(1, 64) if quick else measure(ROUNDS)), strict=True)
    return [Row("loader with one worker, store against npz", "batches/s", here, there, 10.0)]


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    print(f"{platform.machine()}, {os.cpu_count()} cores, one worker, torch {torch.__version__}")
    print_rows([(*row, row[0] / row[2], row[0] / row[3]) for row in measure(ROUNDS)])


def print_rows(rows: list[tuple[float, ...]]) -> None:
    """Print each round, the median, the least and the most."""
    print(f"{'batches/s':12}{'store':>9}{'memory':>9}{'npz':>9}{'published':>11}{'to npz':>9}{'to published':>14}")
    named = [(f"round {number}", row) for number, row in enumerate(rows, start=1)]
    named += [(form.__name__, form(rows, axis=0)) for form in (np.median, np.min, np.max)]
    for label, row in named:
        print(f"{label:12}{row[0]:>9.2f}{row[1]:>9.2f}{row[2]:>9.2f}{row[3]:>11.2f}{row[4]:>9.2f}{row[5]:>14.2f}")


if __name__ == "__main__":
    main()
