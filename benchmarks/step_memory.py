"""Peak resident memory of training steps at the published batch sizes, each task in a process of its own.

    python3 -m benchmarks.step_memory

Size small, fp32, two steps on batches of 64 as large as they get: 100 regions (36 for matching), 14 tokens (50).
Weights, gradients, Adam's moments and torch itself are included; vocabularies and data sets are not.
"""

import resource
import subprocess
import sys

import numpy as np
import torch

from benchmarks.networks import networks, vgd_sample, vqa_sample
from benchmarks.training import Trainee
from mmnas.batch import collate

SIZES = {"vqa": (100, 14), "vgd": (100, 14), "itm": (36, 50)}
BATCH = 64


def measure(name: str) -> float:
    """Return the peak in GB."""
    rng, (regions, tokens) = np.random.default_rng(0), SIZES[name]
    task, network, _ = networks(name)
    trainee = Trainee(task, network, fused=True)
    for _ in range(2):
        samples = [vgd_sample(rng) if name == "vgd" else vqa_sample(regions, tokens, rng) for _ in range(BATCH)]
        batch = collate([{**sample, "index": np.array(index)} for index, sample in enumerate(samples)])
        rows = torch.arange(BATCH)
        pairs = torch.stack([rows, rows.roll(1)], dim=1)  # each with itself and, as a negative, the one before it
        trainee.step({**batch, "image_rows": pairs, "caption_rows": pairs} if name == "itm" else batch)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Print a line per task."""
    for name in sys.argv[1:] or SIZES:
        if sys.argv[1:]:
            print(f"{name} {measure(name):.1f} GB")
        else:
            subprocess.run([sys.executable, "-m", "benchmarks.step_memory", name], check=True)


if __name__ == "__main__":
    main()
