"""What a search finds, against MCAN's pattern and random genotypes, on the demo world.

    python3 -m benchmarks.search_quality [--tasks vqa vgd] [--seeds 0 1 2] [--folder FOLDER]

For every task and seed: a search in the tiny supernet, then its genotype, MCAN's and five random ones, each
trained alike from scratch with that seed, and scored on val. One run per core at a time, one thread each. Runs that
a folder holds already are not repeated.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmnas.demo.comparison import last_accuracy, search_space_of, write_contestants
from mmnas.demo.demos import start_script
from mmnas.demo.world import write_world
from mmnas.genotype import read_genotype
from mmnas.search.drawing import in_words
from mmnas.tasks import task_named

RANDOMS = 5
# Epochs of a search, the epoch at which alphas begin to learn, and the epochs of every training run after it.
BUDGETS = {"vqa": (16, 10, 12), "vgd": (6, 2, 3)}


def run(folder: Path, task: str, version: str, *flags: str) -> None:
    """Run a task's script to its end, unless the folder holds that version; its output goes to a file."""
    done = folder / "done" / version
    if done.exists():
        return
    done.parent.mkdir(exist_ok=True)
    with open(folder / f"{version}.log", "w", encoding="utf-8") as log:
        every = ["--MODEL=tiny", f"--VERSION={version}", "--DATA_PATH=world", "--GPU=cpu", "--NW=0", *flags]
        process = start_script(task, every, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        if process.wait():
            sys.exit(f"{version} failed: see {folder / f'{version}.log'}")
    done.touch()


def contest(folder: Path, task: str, seed: int) -> dict[str, float]:
    """Search, then train all contestants; return the accuracy of each on val, in percent."""
    epochs, start, training = BUDGETS[task]
    version = f"{task}_{seed}"
    run(folder, task, version, "--RUN=search", f"--SEED={seed}", f"--MAX_EPOCH={epochs}", f"--ALPHA_START={start}")
    found = folder / "logs" / "ckpts" / "arch" / f"{version}.json"
    contestants = folder / f"{version}.json"
    names = write_contestants(contestants, found, search_space_of(task), RANDOMS, seed)
    scores = {}
    for epoch, name in enumerate(names):
        own = f"{version}_{epoch}"
        run(
            folder, task, own, "--RUN=train", "--SPLIT=train", f"--SEED={seed}", f"--MAX_EPOCH={training}",
            f"--GENO_PATH={contestants}", f"--GENO_EPOCH={epoch}",
        )  # fmt: skip
        scores[name] = last_accuracy(folder / "logs", own, task_named(task).headline)
        blocks = in_words(read_genotype(contestants, epoch))
        print(f"{task} seed {seed} {name:<9} {scores[name]:6.2f}  {blocks}", flush=True)
    return scores


def table(task: str, results: dict[int, dict[str, float]]) -> list[str]:
    """Return the rows of a task: per seed, and over all."""
    heads = (task, "seed", "searched", "MCAN", "random, mean", "random, std", "random, best")
    rows = [heads, ("---",) * len(heads)]
    randoms = {seed: [scores[f"random {n}"] for n in range(1, RANDOMS + 1)] for seed, scores in results.items()}
    for seed, scores in results.items():
        rows.append(("", str(seed), *figures(scores["searched"], scores["MCAN"], randoms[seed])))
    searched, mcan = (statistics.mean(scores[name] for scores in results.values()) for name in ("searched", "MCAN"))
    rows.append(("", "all", *figures(searched, mcan, [value for values in randoms.values() for value in values])))
    return [f"| {' | '.join(row)} |" for row in rows]


def figures(searched: float, mcan: float, randoms: list[float]) -> list[str]:
    """Return a row's accuracies in percent."""
    values = (searched, mcan, statistics.mean(randoms), statistics.stdev(randoms), max(randoms))
    return [f"{value:.2f}" for value in values]


def main() -> None:
    """Run all contests and print a table per task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(BUDGETS), choices=list(BUDGETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, help="where runs are kept (default: a temporary folder)")
    options = parser.parse_args()
    folder = (options.folder or Path(tempfile.mkdtemp())).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "world").exists():
        write_world(folder / "world", 400)
    begin = time.monotonic()
    jobs = [(folder, task, seed) for seed in options.seeds for task in options.tasks]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        scores = list(pool.map(lambda job: contest(*job), jobs))
    for task in options.tasks:
        own = {seed: result for (_, name, seed), result in zip(jobs, scores, strict=True) if name == task}
        print("\n".join(["", *table(task, own)]))
    print(f"\n{(time.monotonic() - begin) / 60:.0f} minutes in {folder}")


if __name__ == "__main__":
    main()
