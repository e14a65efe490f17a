"""Resident memory of matching against the number of images: the features must not stay in memory.

    python3 -m benchmarks.retrieval_memory

Each line is a process of its own that takes every image of a Flickr30K train split once, and a random other one
beside it, through the training loader (one worker), and reports the memory of itself and its worker. The feature
files are links to ten, each read and checked as if it were its own.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.memory import print_table, resident_mb

IMAGES = (1000, 10_000)
REGIONS = 36


def write_data(root: Path, images: int) -> None:
    """Write a train split of `images` images, five captions each, whose feature files are links to ten."""
    features, texts = root / "flickr_rois_resnet101_fix36", root / "itm" / "f30k_precomp"
    features.mkdir(parents=True)
    texts.mkdir(parents=True)
    rng = np.random.default_rng(0)
    boxes = np.tile(np.array([[10, 10, 90, 90]], np.float32), (REGIONS, 1))
    for number in range(10):
        x = rng.random((2048, REGIONS), dtype=np.float32)
        np.savez(root / f"{number}.npz", x=x, bbox=boxes, image_h=100, image_w=100)
    for image in range(images):
        os.link(root / f"{image % 10}.npz", features / f"{10**9 + image}.jpg.npz")
    (texts / "train_ids.txt").write_text("".join(f"{image}\n" for image in range(images)))
    (texts / "train_caps.txt").write_text("".join(f"A thing number {line}.\n" for line in range(5 * images)))
    index = [{"imgid": image, "filename": f"{10**9 + image}.jpg"} for image in range(images)]
    (root / "itm" / "dataset_flickr30k.json").write_text(json.dumps({"images": index}))


def measure(root: str) -> None:
    """Take every image once through the loader; print figures as JSON."""
    from mmnas.config import load_config
    from mmnas.engine.loading import BatchLoader
    from mmnas.tasks.hard_negatives import random_negatives
    from mmnas.tasks.itm import ITMTask

    task = ITMTask(load_config("itm", "small", split="train", version="x", overrides={"paths.data": root}))
    before = resident_mb(os.getpid())
    task.vocabularies = task.build_vocabularies()
    pairs = task.training_set()
    images = len(pairs.images)
    pairs.negatives.copy_(torch.from_numpy(random_negatives(pairs.owners, 0, 0)))
    batches = [list(range(start, min(start + 320, 5 * images), 5)) for start in range(0, 5 * images, 320)]
    peak, samples = 0.0, 0
    for step, batch in enumerate(BatchLoader(pairs, batches, workers=1, device=torch.device("cpu"))):
        samples += len(batch["index"])
        if step % 5 == 0:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            peak = max(peak, sum(resident_mb(int(pid)) for pid in [os.getpid(), *children]))
    print(json.dumps({"before": before, "peak": peak, "samples": samples}))


if __name__ == "__main__":
    measure(sys.argv[1]) if len(sys.argv) > 1 else print_table(
        "benchmarks.retrieval_memory", write_data, IMAGES, REGIONS
    )
