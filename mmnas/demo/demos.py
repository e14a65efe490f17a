"""The demos: each trains tiny networks on the demo world, and compares what they have learned with a simpler rule.

`mmnas train` does it, run as a user would, each time in a process of its own.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from mmnas.data.vqa_json import QuestionFiles
from mmnas.demo.prior import prior_accuracy
from mmnas.demo.world import write_world
from mmnas.errors import ConfigError
from mmnas.files import read_json
from mmnas.genotype import read_genotypes
from mmnas.paths import RunPaths
from mmnas.run.lock import locked
from mmnas.search.drawing import in_words

DATA, LOGS = Path("data/demo"), Path("logs")
# A network this small gains little from a second thread, and loses much when other programs want the core.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
# VQA and matching have eight blocks: with the thirty of their published genotypes, a network of width 128 takes ten
# times as long to learn anything. Grounding learns with its published thirty from the first epoch on.
GENOTYPES = {"vqa": "demo", "vgd": "train_vgd", "itm": "demo"}
# The task that is searched (it learns fastest), epochs of the search and of every training run, random genotypes.
SEARCHED, SEARCH_EPOCHS, TRAINING_EPOCHS, RANDOMS = "vgd", 6, 3, 2


def demo(name: str = "vqa", images: int = 400, flags: Sequence[str] = ()) -> int:
    """Run one of DEMOS in the working directory, on a world of `images` images.

    `flags` are added to those of every training run and of the search. Returns the exit code of the first run that
    fails, or 0.
    """
    if name not in DEMOS:
        raise ConfigError(f"no demo '{name}'; valid ones: {', '.join(DEMOS)}")
    counts = write_world(DATA, images)
    say(f"demo world in {DATA}: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    paths = RunPaths(LOGS, f"demo_{name}")
    with locked(paths.checkpoints):  # refuses to remove what a demo that runs has written
        pass
    for folder in (paths.checkpoints, *LOGS.glob(f"ckpts/ckpt_{paths.version}_[0-9]")):
        shutil.rmtree(folder, ignore_errors=True)
    results = (LOGS.glob(f"ckpts/result_*/result_run_{paths.version}{split}.*") for split in ("", "_test[AB]"))
    for path in (*chain(*results), paths.genotypes):
        path.unlink(missing_ok=True)
    return _search(paths, flags) if name == "search" else _train_and_score(name, paths, flags)


def _train_and_score(task: str, paths: RunPaths, flags: Sequence[str]) -> int:
    train = ["--RUN=train", "--MODEL=tiny", "--SPLIT=train", f"--GENO_PATH={GENOTYPES[task]}", *flags]
    common = [f"--VERSION={paths.version}", f"--DATA_PATH={DATA}"]
    code = run_script(task, *([*run, *common] for run in (train, ["--RUN=val"], ["--RUN=test"])))
    if code == 0:
        results = LOGS / "ckpts" / "result_test" / f"result_run_{paths.version}"
        checkpoint = read_json(next(results.parent.glob(f"{results.name}*.meta.json")))["checkpoint"]
        say("", *_TABLES[task](paths), f"checkpoint: {checkpoint}", f"results:    {results}*", *_what_else(paths))
    return code


def _what_else(paths: RunPaths) -> list[str]:
    """Return where a run's other files are, and what to try next."""
    return [
        f"metrics:    {paths.result('val').with_suffix('.metrics.json')}",
        f"log:        {paths.log}",
        f"curves:     tensorboard --logdir {paths.events}",
        f"next:       mmnas report {paths.version} --images {DATA / 'images'}",
    ]


def _search(paths: RunPaths, flags: Sequence[str]) -> int:
    """Search, then train the genotype found and its rivals, all for the same time."""
    from mmnas.demo import comparison  # imports torch, which is slow

    common = ["--MODEL=tiny", f"--DATA_PATH={DATA}"]
    search = ["--RUN=search", f"--VERSION={paths.version}", f"--MAX_EPOCH={SEARCH_EPOCHS}", *flags, *common]
    if code := run_script(SEARCHED, search):
        return code
    file = paths.checkpoints.with_name(f"{paths.version}_contestants.json")
    space = comparison.search_space_of(SEARCHED)
    names = comparison.write_contestants(file, paths.genotypes, space, RANDOMS, seed=0)
    versions = [f"{paths.version}_{epoch}" for epoch in range(len(names))]
    train = ["--RUN=train", "--SPLIT=train", f"--MAX_EPOCH={TRAINING_EPOCHS}", f"--GENO_PATH={file}", *flags]
    chosen = ([f"--VERSION={version}", f"--GENO_EPOCH={epoch}"] for epoch, version in enumerate(versions))
    runs = ([*train, *common, *one] for one in chosen)
    if code := run_script(SEARCHED, *runs):
        return code
    accuracies = [comparison.last_accuracy(LOGS, version, "accuracy") for version in versions]
    words = [f"  {in_words(genotype)}" for genotype in read_genotypes(file).values()]
    rows = zip(names, accuracies, words, strict=True)
    say("", *table(("genotype", "accuracy", "  blocks (encoder | decoder)"), *rows))
    say(f"found by the search: {paths.genotypes}", f"checkpoints:         {paths.checkpoints}*")
    return 0


def start_script(task: str, flags: Sequence[str], **options: Any) -> subprocess.Popen:
    """Start `mmnas train` in the working directory; `options` are those of `Popen`."""
    command = [sys.executable, "-m", "mmnas", "train", task, *flags]
    return subprocess.Popen(command, env={**ONE_THREAD, **os.environ}, **options)


def run_script(task: str, *runs: Sequence[str]) -> int:
    """Run a task's script once for each list of flags; return the first exit code that is not 0, or 0."""
    for flags in runs:
        say(f"$ OMP_NUM_THREADS=1 mmnas train {task} {' '.join(flags)}")
        process = start_script(task, flags)
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the script got it too, and saves
            code = process.wait()
        if code:
            return code
    return 0


def say(*lines: str) -> None:
    """Print lines at once, before what a script will print."""
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def table(*rows: Iterable[str | float]) -> list[str]:
    """Return a line per row: the first column left-aligned, numbers with two decimals."""
    cells = [[cell if isinstance(cell, str) else f"{cell:.2f}" for cell in row] for row in rows]
    width = max(len(first) for first, *_ in cells) + 2
    return [first.ljust(width) + "".join(f"{cell:>10}" for cell in rest) for first, *rest in cells]


def _read(result: Path, kind: str = "metrics") -> Any:
    """Return the "metrics" or "meta" that lie beside a run's predictions."""
    return read_json(result.with_suffix(f".{kind}.json"))


def _vqa_table(paths: RunPaths) -> list[str]:
    """Return the accuracy on val beside that of each question type's most frequent answer."""
    found = _read(paths.result("val"))["official"]
    train, val = (QuestionFiles(DATA).read("annotations", split) for split in ("train", "val"))
    prior = prior_accuracy(train, val)
    by_type = [(name, value, prior["answer_type"][name]) for name, value in found["answer_type"].items()]
    overall = ("overall", found["overall"], prior["overall"])
    lines = table(("VQA accuracy on val", "model", "prior"), overall, *by_type)
    return [*lines, "prior: always the question type's most frequent answer"]


def _vgd_table(paths: RunPaths) -> list[str]:
    """Return the accuracy on the test splits beside that of the best region and of a random one."""
    metrics = {split: _read(paths.result("test", split)) for split in ("testA", "testB")}
    rows = [(split, found["accuracy"], found["oracle"], found["random_region"]) for split, found in metrics.items()]
    lines = table(("grounding accuracy on", "model", "oracle", "random"), *rows)
    return [*lines, "oracle: the best region, unmoved; random: any region, unmoved"]


def _itm_table(paths: RunPaths) -> list[str]:
    """Return recalls and median ranks on test beside the recalls of a guess."""
    metrics, meta = _read(paths.result("test")), _read(paths.result("test"), "meta")
    images, keys = meta["counts"]["samples"], ("r1", "r5", "r10", "median_rank")
    return table(
        (f"{metrics['protocol']} on {images} images", "R@1", "R@5", "R@10", "median"),
        ("captions of an image", *(metrics["image_to_text"][key] for key in keys)),
        ("images of a caption", *(metrics["text_to_image"][key] for key in keys)),
        ("images, by chance", *(100 * k / images for k in (1, 5, 10))),
    )


_TABLES: dict[str, Callable[[RunPaths], list[str]]] = {"vqa": _vqa_table, "vgd": _vgd_table, "itm": _itm_table}
DEMOS = (*_TABLES, "search")
