"""`python -m mmnas demo <task>`: the demo world, a tiny network, and what it has learnt beside a guess.

Runs the task's own script, as a user would: train, val, test.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from mmnas.data.vqa_json import read_annotations, require_annotations
from mmnas.demo.scripts import ARCHITECTURES, run_script, say
from mmnas.demo.world import write_world
from mmnas.errors import ConfigError
from mmnas.files import read_json
from mmnas.metrics.vqa_accuracy import prior_accuracy

DATA = Path("data/demo")
LOGS = Path("logs")
# VQA and matching have eight blocks: at width 128, the thirty of their published genotypes take ten times as long
# to learn anything. Grounding learns with its published thirty from the first epoch on.
GENOTYPES = {"vqa": "demo.json", "vgd": "train_vgd.json", "itm": "demo.json"}


def demo(task: str = "vqa", images: int = 400, flags: Sequence[str] = ()) -> int:
    """Run the demo of `task`, or of a search, in the working directory; return the exit code.

    `images` is the world's size, `flags` are added to those of every training run and of the search.
    """
    if task not in (*DEMOS, "search"):
        raise ConfigError(f"no demo '{task}'; valid ones: {', '.join(DEMOS)}, search")
    counts = write_world(DATA, images)
    say(f"demo world in {DATA}: " + ", ".join(f"{value} {name}" for name, value in counts.items()))
    if task == "search":
        from mmnas.demo.search_demo import demo_search  # it needs torch, which is slow to import

        return demo_search(DATA, LOGS, flags)
    version = f"demo_{task}"
    code = _train_and_score(task, version, flags)
    if code == 0:
        say(DEMOS[task](version))
    return code


def _train_and_score(task: str, version: str, flags: Sequence[str]) -> int:
    """Train, then score val and test, each by the task's script; return the exit code of the first that fails."""
    shutil.rmtree(LOGS / "ckpts" / f"ckpt_{version}", ignore_errors=True)
    for path in (LOGS / "ckpts").glob(f"result_*/result_run_{version}*"):
        path.unlink()
    common = [f"--VERSION={version}", f"--DATA_PATH={DATA}"]
    genotype = ARCHITECTURES / GENOTYPES[task]
    for step in (
        ["--RUN=train", "--MODEL=tiny", "--SPLIT=train", f"--GENO_PATH={genotype}", *flags],
        ["--RUN=val"],
        ["--RUN=test"],
    ):
        code = run_script(task, [*step, *common])
        if code:
            return code
    return 0


def _vqa_table(version: str) -> str:
    """Accuracy on val beside that of each question type's most frequent answer, and where things lie."""
    results = LOGS / "ckpts"
    official = read_json(results / "result_val" / f"result_run_{version}.metrics.json")["official"]
    train, val = (read_annotations(require_annotations(DATA, split)) for split in ("train", "val"))
    prior = prior_accuracy(train, val)
    rows = [("overall", official["overall"], prior["overall"])]
    rows += [(name, value, prior["answer_type"][name]) for name, value in official["answer_type"].items()]
    meta = read_json(results / "result_val" / f"result_run_{version}.meta.json")
    return "\n".join(
        [
            "",
            f"{'VQA accuracy on val':<22}{'model':>8}{'prior':>8}",
            *(f"{name:<22}{value:>8.2f}{base:>8.2f}" for name, value, base in rows),
            "prior: always the question type's most frequent answer",
            f"checkpoint: {meta['checkpoint']}",
            f"result:     {results / 'result_test' / f'result_run_{version}.json'}",
        ]
    )


def _vgd_table(version: str) -> str:
    """Accuracy per test split beside the best region's and a random one's, and where things lie."""
    folder = LOGS / "ckpts" / "result_test"
    metas = [read_json(path) for path in sorted(folder.glob(f"result_run_{version}*.meta.json"))]
    metrics = [read_json(path) for path in sorted(folder.glob(f"result_run_{version}*.metrics.json"))]
    columns = ("accuracy", "oracle", "random_region")
    rows = [
        f"{meta['scored_on']:<22}" + "".join(f"{values[name]:>10.2f}" for name in columns)
        for meta, values in zip(metas, metrics, strict=True)
    ]
    return "\n".join(
        [
            "",
            f"{'grounding accuracy on':<22}{'model':>10}{'oracle':>10}{'random':>10}",
            *rows,
            "oracle: the best region, unmoved; random: any region, unmoved",
            f"checkpoint: {metas[0]['checkpoint']}",
            f"results:    {folder / f'result_run_{version}*.json'}",
        ]
    )


def _itm_table(version: str) -> str:
    """Recalls and ranks on test beside those of a guess, and where things lie."""
    results = LOGS / "ckpts" / "result_test"
    metrics = read_json(results / f"result_run_{version}.metrics.json")
    meta = read_json(results / f"result_run_{version}.meta.json")
    images = meta["counts"]["samples"]
    rows = [
        f"{metrics['protocol']} on {images} images".ljust(28)
        + "".join(f"{name:>10}" for name in ("R@1", "R@5", "R@10", "median"))
    ]
    for direction, label in (("image_to_text", "captions of an image"), ("text_to_image", "images of a caption")):
        values = metrics[direction]
        rows.append(f"{label:<28}" + "".join(f"{values[key]:>10.2f}" for key in ("r1", "r5", "r10", "median_rank")))
    rows.append(f"{'images, by chance':<28}" + "".join(f"{100 * k / images:>10.2f}" for k in (1, 5, 10)))
    return "\n".join(
        [
            "",
            *rows,
            f"checkpoint: {meta['checkpoint']}",
            f"result:     {results / f'result_run_{version}.json'}",
            f"scores:     {results / f'result_run_{version}.scores.npy'}",
        ]
    )


DEMOS = {"vqa": _vqa_table, "vgd": _vgd_table, "itm": _itm_table}
