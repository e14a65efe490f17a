"""How well a supernet ranks genotypes: its score of each beside the accuracy of the genotype trained alone.

    python3 -m benchmarks.search_ranking alone  --folder FOLDER [--tasks vgd] [--seeds 0] [--genotypes 24]
    python3 -m benchmarks.search_ranking search --folder FOLDER [--tasks vgd] [--seeds 0] [--variants paper random]
    python3 -m benchmarks.search_ranking found  --folder FOLDER [--tasks vgd] [--seeds 0] [--variants paper random]

On the demo world, with the tiny network: `alone` trains MCAN's pattern and random genotypes by themselves; `search`
trains supernets and lets each score the same genotypes on its held-out part; `found` trains what the searches
chose, and MCAN's pattern, with the search's seed. One process, one thread. Results are appended to `trained.jsonl`
and `searches.jsonl` in the folder under a hash of everything they follow from, and never computed again, so a study
may be stopped at any time and grows over runs. `benchmarks.search_tables` evaluates them.
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

from mmnas.data.store_writer import pack
from mmnas.demo.comparison import last_accuracy, mcan, random_genotypes, search_space_of
from mmnas.demo.world import write_world
from mmnas.engine.distributed import Group
from mmnas.genotype import Genotype, read_genotype, write_genotypes
from mmnas.models.cpu import use_cpu_kernels
from mmnas.run.plan import Request, make_plan
from mmnas.run.session import prepare, run
from mmnas.search.drawing import in_words
from mmnas.search.history import read_history
from mmnas.search.searcher import Searcher
from mmnas.tasks import task_named

# How each task's genotypes are trained alone; what is not said is the tiny network's own.
TRAINING: dict[str, dict[str, Any]] = {
    "vgd": {"images": 400, "training.epochs": 3},
    "vqa": {"images": 400, "training.epochs": 12},
    "itm": {"images": 200, "training.epochs": 6, "training.decay_epochs": [5]},
}
# How each task is searched, on the same world; a variant adds to it.
SEARCH: dict[str, dict[str, Any]] = {
    "vgd": {"training.epochs": 6, "search.alpha_start": 2},
    "vqa": {"training.epochs": 24, "search.alpha_start": 14},
    "itm": {"training.epochs": 10, "search.alpha_start": 5},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {"search.choose": 16},
    "uniform": {"search.choose": 16, "search.alpha_init": "uniform"},
    "fair": {"search.choose": 16, "search.alpha_init": "uniform", "search.sampling": "fair"},
    **{macs: {"search.choose": 16, "search.macs": macs} for macs in ("31M", "36M", "41M")},
    "random": {"search.strategy": "random", "search.choose": 64},
    "evolution": {"search.strategy": "evolution", "search.choose": 64},
}
FEATURES = {"vqa": "coco_extract", "vgd": "vgd_coco/fix100/refcoco_unc", "itm": "flickr_rois_resnet101_fix36"}


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
            self.rows[key] = {**row, "commit": commit(), "machine": platform.machine(), "torch": torch.__version__}
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(self.rows[key]) + "\n")
        return self.rows[key]


def commit() -> str:
    """Return the short hash of the commit at hand."""
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()


class Study:
    """The results in a folder, and how what is missing there is computed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trained, self.searches = (Table(folder / f"{name}.jsonl") for name in ("trained", "searches"))

    def paths(self, task: str, logs: Path) -> dict[str, Any]:
        """Return where a task's data are, written and packed first; batches are those of unpacked features."""
        images = TRAINING[task]["images"]
        world, store = self.folder / f"world{images}", self.folder / f"{task}{images}.features"
        write_world(world, images)
        pack([str(world / FEATURES[task])], str(store), "float32", None)
        paths = {"paths.data": str(world), "paths.features": str(store), "paths.logs": str(logs)}
        return {**paths, "training.workers": 0, "training.buckets": False}

    def alone(self, task: str, genotype: Genotype, seed: int) -> dict[str, Any]:
        """Return the row of a genotype trained by itself."""
        inputs = {"task": task, "genotype": genotype.to_dict(), "settings": TRAINING[task], "seed": seed}
        return self.trained.get(inputs, lambda: {"accuracy": self._train(task, genotype, seed)})

    def _train(self, task: str, genotype: Genotype, seed: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            file, kind = Path(folder) / "genotype.json", task_named(task)
            write_genotypes(file, {0: genotype})
            overrides = {**self.paths(task, Path(folder)), "training.seed": seed, **settings(TRAINING[task])}
            request = Request(
                "train", size="tiny", version="alone", split="train", geno_path=str(file), overrides=overrides
            )
            run(Group(), kind, make_plan(kind, request))
            return last_accuracy(Path(folder), "alone", kind.headline)

    def search(self, task: str, variant: str, seed: int, genotypes: list[Genotype]) -> dict[str, Any]:
        """Return the row of a search: what it found, and its supernet's loss of each of `genotypes`."""
        chosen = {"images": TRAINING[task]["images"], **SEARCH[task], **VARIANTS[variant]}
        inputs = {"task": task, "variant": variant, "settings": chosen, "seed": seed}
        return self.searches.get(inputs, lambda: self._search(task, variant, seed, chosen, genotypes))

    def _search(
        self, task: str, variant: str, seed: int, chosen: dict[str, Any], genotypes: list[Genotype]
    ) -> dict[str, Any]:
        logs, version, kind = self.folder / "logs", f"{task}_{variant}_{seed}", task_named(task)
        overrides = {**self.paths(task, logs), "training.seed": seed, **settings(chosen)}
        request = Request("search", size="tiny", version=version, overrides=overrides)
        begin = time.process_time()
        run(Group(), kind, make_plan(kind, request))
        seconds = round(time.process_time() - begin, 1)
        plan = make_plan(kind, Request("search", version=version, resume=True, overrides=self.paths(task, logs)))
        history = read_history(plan.config.files.history)
        control = plan.config.search.strategy != "paper"
        return {
            "found": read_genotype(plan.config.files.genotypes).to_dict(),
            **({} if control else {"argmax": plan.checkpoint.history[-1]["genotype"]}),
            "losses": dict(zip(map(in_words, genotypes), supernet_losses(plan, kind, genotypes), strict=True)),
            "scored": {in_words(each.genotype): each.loss for each in history.scored},
            "search_seconds": seconds,
        }


def supernet_losses(plan: Any, kind: Any, genotypes: list[Genotype]) -> list[float]:
    """Return the loss that a finished search's supernet gives each genotype on the held-out part."""
    task = kind(plan.config)
    model = prepare(task, plan)
    use_cpu_kernels(model)
    searcher = Searcher(task, model, plan.genotype, Group(), plan.folder, keep_all=False)
    searcher.restore(plan.checkpoint, plan.source.path)
    searcher._prepare_epoch()
    held_out, rows = searcher.held_out(), (*plan.genotype.encoder, *plan.genotype.decoder)
    paths = [
        [row.index(name) for row, [name] in zip(rows, (*each.encoder, *each.decoder), strict=True)]
        for each in genotypes
    ]
    return [held_out.loss(path) for path in paths]


def settings(chosen: dict[str, Any]) -> dict[str, Any]:
    """Return what of a study's settings is a configuration key."""
    return {key: value for key, value in chosen.items() if "." in key}


def contestants(task: str, count: int) -> list[Genotype]:
    """Return MCAN's pattern and `count` random genotypes, always the same ones."""
    space = search_space_of(task)
    return [mcan(space), *random_genotypes(space, count, seed=100)]


def main() -> None:
    """Compute what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["alone", "search", "found"])
    parser.add_argument("--folder", type=Path, required=True, help="where results are kept")
    parser.add_argument("--tasks", nargs="+", default=list(TRAINING), choices=list(TRAINING))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--genotypes", type=int, default=24)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    study = Study(options.folder.resolve())
    for task, seed in ((task, seed) for seed in options.seeds for task in options.tasks):
        genotypes = contestants(task, options.genotypes)
        rows = [study.search(task, each, seed, genotypes) for each in options.variants if options.what != "alone"]
        if options.what == "found":
            names = [(row, name) for row in rows for name in ("found", "argmax") if name in row]
            found = [Genotype.from_dict(row[name]) for row, name in names]
            genotypes = [genotypes[0], *found]
        for genotype in genotypes if options.what != "search" else []:
            row = study.alone(task, genotype, seed)
            print(f"{task} seed {seed} {row['accuracy']:6.2f}  {in_words(genotype)}", flush=True)


if __name__ == "__main__":
    main()
