"""Resident memory of VQA training against the number of images: the features must not stay in memory.

    python3 -m benchmarks.memory

Each line is a process of its own that reads every image of a data set once through the training loader
(one worker) and reports the memory of itself and its worker. The features of 5000 images of 100 regions
would fill 4 GB; here they are links to a few files, each read and checked as if it were its own.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

IMAGES = (500, 5000)
REGIONS = 100
QUESTIONS_PER_IMAGE = 4


def write_data(root: Path, images: int, questions_per_image: int = QUESTIONS_PER_IMAGE) -> None:
    """Write a VQA train split of `images` images whose feature files are links to ten."""
    folder = root / "coco_extract" / "train2014"
    folder.mkdir(parents=True)
    (root / "vqa").mkdir()
    rng = np.random.default_rng(0)
    boxes = np.tile(np.array([[10, 10, 90, 90]], np.float32), (REGIONS, 1))
    originals = []
    for number in range(10):
        originals.append(root / f"{number}.npz")
        x = rng.standard_normal((2048, REGIONS), np.float32)
        np.savez(originals[-1], x=x, bbox=boxes, image_h=100, image_w=100)
    questions, annotations = [], []
    for image in range(1, images + 1):
        os.link(originals[image % 10], folder / f"COCO_train2014_{image:012d}.jpg.npz")
        for number in range(questions_per_image):
            entry = {"question_id": image * 10 + number, "image_id": image}
            questions.append({**entry, "question": f"what is thing {number} here ?"})
            answers = [{"answer": "yes", "answer_id": each, "answer_confidence": "yes"} for each in range(1, 11)]
            types = {"question_type": "what is", "answer_type": "other", "multiple_choice_answer": "yes"}
            annotations.append({**entry, **types, "answers": answers})
    names = ("v2_OpenEnded_mscoco_train2014_questions", "v2_mscoco_train2014_annotations")
    for name, key, rows in zip(names, ("questions", "annotations"), (questions, annotations), strict=True):
        (root / "vqa" / f"{name}.json").write_text(json.dumps({key: rows}))


def resident_mb(pid: int) -> float:
    """Return a process's own resident memory in MB, shared pages counted by their share."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return int(fields["Pss"].split()[0]) / 1024


def measure(root: str) -> None:
    """Read every image once through the loader; print figures as JSON."""
    from mmnas.config import load_config
    from mmnas.data.samplers import TrainingSampler
    from mmnas.engine.loading import BatchLoader
    from mmnas.tasks.vqa import VQATask

    task = VQATask(load_config("vqa", "small", split="train", version="x", overrides={"paths.data": root}))
    base = resident_mb(os.getpid())
    task.vocabularies = task.build_vocabularies()
    dataset = task.training_set()
    sampler = TrainingSampler(len(dataset), 64, seed=0)
    peak, images = 0.0, 0
    loader = BatchLoader(dataset, sampler, workers=1, device=torch.device("cpu"))
    for step, batch in enumerate(loader):
        images += len(batch["index"])
        if step % 20 == 0:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            peak = max(peak, sum(resident_mb(int(pid)) for pid in [os.getpid(), *children]))
    print(json.dumps({"before": base, "peak": peak, "samples": images}))


def print_table(module: str, write: Callable[[Path, int], None], sizes: Sequence[int], regions: int) -> None:
    """Measure each number of images by `module` in a process of its own, on data that `write` makes, and print."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    print(f"{'images':>8} {'samples':>8} {'features MB':>12} {'before MB':>10} {'peak MB':>9} {'grown MB':>9}")
    for images in sizes:
        with tempfile.TemporaryDirectory() as root:
            write(Path(root), images)
            command = [sys.executable, "-m", module, root]
            figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        features = images * regions * 2048 * 4 / 2**20
        grown = figures["peak"] - figures["before"]
        row = (f"{images:>8}", f"{figures['samples']:>8}", f"{features:>12.0f}", f"{figures['before']:>10.0f}")
        print(*row, f"{figures['peak']:>9.0f}", f"{grown:>9.0f}")


if __name__ == "__main__":
    measure(sys.argv[1]) if len(sys.argv) > 1 else print_table("benchmarks.memory", write_data, IMAGES, REGIONS)
