"""Weight steps of the supernet against those of a plain network with the same path: speed and memory.

    python3 -m benchmarks.supernet

The paper's search space (12 + 18 blocks, H 256), VQA, batches of 64 questions with 36 regions and 8 tokens. Speed
is taken in one process, a step of each in turn, over several paths. Memory is the peak of a process of its own that
builds a network and takes steps by one path, over what it held before; idle candidates' weights are given apart.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmnas.batch import Batch
from mmnas.config import load_config
from mmnas.genotype import Genotype
from mmnas.models.cpu import use_cpu_kernels
from mmnas.models.network import MMNasNet
from mmnas.search.architecture import Architecture
from mmnas.search.supernet import Supernet, space_of
from mmnas.tasks import task_named
from mmnas.tasks.base import Task

STEPS = 4
PATHS = 3


def task_and_space():
    """Return the VQA task in the paper's search, without any data, and its search space."""
    config = load_config("vqa", "search", split="train", version="benchmark")
    task = task_named("vqa")(config)
    task.vocabularies = {"tokens": [str(word) for word in range(2000)], "answers": [""] * 3129}
    return task, space_of(config)


def build(task: Task, genotype: Genotype) -> MMNasNet:
    """Build the network of a genotype, fast on a CPU."""
    network = task.build_model(genotype, pretrained_words=False)
    use_cpu_kernels(network)
    return network


def random_batch(samples: int = 64, regions: int = 36, tokens: int = 8) -> Batch:
    """Return a batch of random features and targets."""
    corners = torch.rand(samples, regions, 2) * 300
    return {
        "features": torch.rand(samples, regions, 2048),
        "boxes": torch.cat([corners, corners + 20 + 100 * torch.rand(samples, regions, 2)], dim=2),
        "image_sizes": torch.full((samples, 2), 450.0),
        "region_mask": torch.ones(samples, regions, dtype=torch.bool),
        "tokens": torch.randint(3, 2000, (samples, tokens)),
        "token_mask": torch.ones(samples, tokens, dtype=torch.bool),
        "index": torch.arange(samples),
        "answer_scores": (torch.rand(samples, 3129) < 1e-3).float(),
    }


def stepper(parameters: list[Tensor], network: Callable[[], nn.Module], task, batch: Batch) -> Callable[[], None]:
    """Return a function that takes one weight step, as the trainer and the searcher do."""
    optimizer = torch.optim.Adam(parameters, lr=1e-4, betas=(0.9, 0.98), eps=1e-9, fused=True)

    def step() -> None:
        task.loss(network(), batch)["total"].backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def speed() -> None:
    """Print the supernet's steps per second over the plain network's."""
    task, space = task_and_space()
    supernet, batch = Supernet(build(task, space), space), random_batch()
    architecture = Architecture(space, "uniform", seed=0)
    ratios = []
    for seed in range(PATHS):
        path = architecture.draw(np.random.default_rng(seed))
        plain = build(task, space.take(path))
        steps = (
            stepper(list(supernet.parameters()), lambda path=path: supernet.network(path), task, batch),
            stepper(list(plain.parameters()), lambda plain=plain: plain, task, batch),
        )
        for round_ in range(STEPS + 1):
            seconds = []
            for step in steps:
                begin = time.perf_counter()
                step()
                seconds.append(time.perf_counter() - begin)
            if round_:  # the first one makes the optimisers' state
                ratios.append(seconds[1] / seconds[0])
    low, middle, high = np.quantile(ratios, [0, 0.5, 1])
    print(f"supernet's weight steps per second over a plain network's: {middle:.2f} ({low:.2f} to {high:.2f})")


def measure(kind: str) -> None:
    """Print the peak memory in MB of two steps by one path, over that before the network was built, as JSON."""
    task, space = task_and_space()
    path, batch = Architecture(space, "uniform", 0).draw(np.random.default_rng(0)), random_batch()
    warm_up()
    before = peak_mb()
    if kind == "supernet":
        supernet = Supernet(build(task, space), space)
        step = stepper(list(supernet.parameters()), lambda: supernet.network(path), task, batch)
        idle = megabytes(supernet) - megabytes(supernet.network(path))
    else:
        plain, idle = build(task, space.take(path)), 0.0
        step = stepper(list(plain.parameters()), lambda: plain, task, batch)
    step()
    step()
    print(json.dumps({"peak": peak_mb() - before, "idle": idle}))


def warm_up() -> None:
    """Let the libraries take what they take once."""
    network = nn.TransformerEncoderLayer(64, 2, batch_first=True)
    network(torch.rand(2, 4, 64)).sum().backward()


def megabytes(network: nn.Module) -> float:
    """Return the size of a network's weights."""
    return sum(weight.numel() * weight.element_size() for weight in network.parameters()) / 1e6


def peak_mb() -> float:
    """Return the most memory that this process has held so far (resource.getrusage would count its parent's)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e6


def memory() -> None:
    """Print the peak memory of both, each in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.supernet", "--measure"]
    figures = {
        kind: json.loads(subprocess.run([*command, kind], capture_output=True, check=True, text=True).stdout)
        for kind in ("plain", "supernet")
    }
    plain, supernet, idle = figures["plain"]["peak"], figures["supernet"]["peak"], figures["supernet"]["idle"]
    print(f"peak memory: plain {plain:.0f} MB, supernet {supernet:.0f} MB, of which idle candidates {idle:.0f} MB")
    print(f"without the idle candidates' weights: {(supernet - idle) / plain:.2f} of the plain network's")


def main() -> None:
    """Print speed and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", choices=("plain", "supernet"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return
    speed()
    memory()


if __name__ == "__main__":
    main()
