"""How well a supernet ranks genotypes: its score of each beside the accuracy of the genotype trained alone.

    python3 -m benchmarks.search_ranking --folder FOLDER [--tasks vgd vqa itm] [--seeds 0] [--genotypes 24]

For every task: random genotypes and MCAN's pattern, each trained alone on the demo world and scored on val. One process,
one thread. Every result is added to `trained.jsonl` in the folder as soon as it is there, under a hash of genotype, task,
settings and seed, and never computed again: a study may be stopped at any time, and grows over runs.
"""

import argparse
import hashlib
import json
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mmnas.demo.comparison import in_words, last_accuracy, mcan, random_genotypes, search_space_of
from mmnas.demo.world import write_world
from mmnas.engine.distributed import Group
from mmnas.genotype import Genotype, write_genotypes
from mmnas.run.plan import Request, make_plan
from mmnas.run.session import run
from mmnas.tasks import task_named

IMAGES = 400
# How each task's genotypes are trained alone; what is not said is the tiny network's own.
TRAINING: dict[str, dict[str, Any]] = {
    "vgd": {"training.epochs": 3},
    "vqa": {"training.epochs": 12},
    "itm": {"training.epochs": 9},
}


class Table:
    """Results by a hash of what they follow from, one JSON line each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.rows = {row["key"]: row for row in map(json.loads, lines)}

    def get(self, inputs: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the row of `inputs`, computed and written first if there is none."""
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
        if key not in self.rows:
            begin = time.process_time()
            row = {"key": key, **inputs, **compute(), "cpu_seconds": round(time.process_time() - begin, 1)}
            self.rows[key] = {
                **row,
                "commit": commit(),
                "machine": platform.machine(),
                "torch": str(torch.__version__),
            }
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(self.rows[key]) + "\n")
        return self.rows[key]


def commit() -> str:
    """Return the short hash of the commit at hand."""
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()


def trained_alone(table: Table, world: Path, task: str, genotype: Genotype, seed: int) -> dict[str, Any]:
    """Return the row of a genotype trained by itself."""
    settings = {"images": IMAGES, **TRAINING[task]}
    inputs = {"task": task, "genotype": genotype.to_dict(), "settings": settings, "seed": seed}
    return table.get(inputs, lambda: {"accuracy": train(world, task, genotype, seed)})


def train(world: Path, task: str, genotype: Genotype, seed: int) -> float:
    """Train a genotype and return the figure on val after the last epoch."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "genotype.json"
        write_genotypes(file, {0: genotype})
        overrides = {
            "paths.data": str(world), "paths.logs": folder, "training.workers": 0, "training.seed": seed,
            **TRAINING[task],
        }  # fmt: skip
        request = Request(
            "train", size="tiny", version="alone", split="train", geno_path=str(file), overrides=overrides
        )
        kind = task_named(task)
        run(Group(), kind, make_plan(kind, request))
        return last_accuracy(Path(folder), "alone", kind.headline)


def contestants(task: str, count: int) -> list[Genotype]:
    """Return MCAN's pattern and `count` random genotypes, always the same ones."""
    space = search_space_of(task)
    return [mcan(space), *random_genotypes(space, count, seed=100)]


def main() -> None:
    """Train what is not trained yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where results are kept")
    parser.add_argument("--tasks", nargs="+", default=list(TRAINING), choices=list(TRAINING))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--genotypes", type=int, default=24)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    world, table = options.folder / "world", Table(options.folder / "trained.jsonl")
    write_world(world, IMAGES)
    for task in options.tasks:
        for genotype in contestants(task, options.genotypes):
            for seed in options.seeds:
                row = trained_alone(table, world, task, genotype, seed)
                print(f"{task} seed {seed} {row['accuracy']:6.2f}  {in_words(genotype)}", flush=True)


if __name__ == "__main__":
    main()
