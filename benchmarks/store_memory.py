"""Resident memory of `train_vqa.py` with a feature store, against the store's size.

    python3 -m benchmarks.store_memory [--gigabytes 1 4] [--folder FOLDER]

For each size: a store of images with 100 regions, one question each in train and in val, and an epoch of the tiny
network over all of them by the script itself, one worker. Its processes' memory is looked at twice a second, pages
that they share counted by their share; the weights and Adam's two moments are subtracted.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.memory import REGIONS, resident_mb, write_data
from mmnas.data.store_writer import pack
from mmnas.demo.vectors import write_vectors
from mmnas.engine.checkpoint import checkpoints_in, load_checkpoint

IMAGE_BYTES = REGIONS * 2048 * 4
FLAGS = (
    "--RUN=train", "--MODEL=tiny", "--SPLIT=train+val", "--MAX_EPOCH=1", "--VERSION=memory", "--NW=1", "--GPU=cpu",
    "--DATA_PATH=.", "--FEAT_PATH=store.features",
)  # fmt: skip


def write(folder: Path, gigabytes: int) -> int:
    """Write questions, vectors and a store of so many gigabytes; return the number of images."""
    images = gigabytes * 2**30 // IMAGE_BYTES
    write_data(folder, images, questions_per_image=1)
    for path in (folder / "vqa").iterdir():  # the same questions again as val's
        path.with_name(path.name.replace("train2014", "val2014")).write_bytes(path.read_bytes())
    write_vectors(folder, ["what is thing number here"])
    pack([folder / "coco_extract" / "train2014"], folder / "store.features")
    return images


def peak_mb(process: subprocess.Popen) -> float:
    """Return the most memory that a process and its children hold until it ends."""
    peak = 0.0
    while process.poll() is None:
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            peak = max(peak, sum(resident_mb(int(pid)) for pid in (process.pid, *children)))
        except (FileNotFoundError, ProcessLookupError):  # one of them has just ended
            pass
        time.sleep(0.5)
    return peak


def measure(folder: Path, gigabytes: int) -> str:
    """Train for one epoch; return a row of the table."""
    images = write(folder, gigabytes)
    command = [sys.executable, "-m", "mmnas", "train", "vqa", *FLAGS, "--GENO_PATH=demo"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
    peak = peak_mb(process)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    checkpoint = load_checkpoint(checkpoints_in(folder / "logs/ckpts/ckpt_memory")[-1])
    learnt = 3 * sum(weight.numel() * weight.element_size() for weight in checkpoint.model.values()) / 2**20
    store = sum(path.stat().st_size for path in (folder / "store.features").iterdir()) / 2**20
    return f"{images:>8} {store:>10.0f} {peak:>9.0f} {learnt:>20.0f} {peak - learnt:>10.0f}"


def main() -> None:
    """Print a row for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    options = parser.parse_args()
    print(f"{'images':>8} {'store MB':>10} {'peak MB':>9} {'model, optimiser MB':>20} {'rest MB':>10}")
    for gigabytes in options.gigabytes:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            print(measure(Path(folder), gigabytes), flush=True)


if __name__ == "__main__":
    main()
