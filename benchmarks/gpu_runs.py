"""What must hold on a GPU for whole runs and several processes: further sections of `benchmarks.gpu`."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from benchmarks.gpu_checks import TASKS, published_case
from benchmarks.gpu_report import Report, largest_difference
from mmnas.data.store_writer import pack
from mmnas.demo import world as demo_world
from mmnas.engine.checkpoint import Checkpoint, load_checkpoint
from mmnas.engine.distributed import Group, launch
from mmnas.run.cli import main
from mmnas.tasks import base, task_named
from tests.stand_in import fixture_task

SETTINGS = """
model: {{hidden_size: 64, pooling_size: 32, pooled_size: 64, relation_size: 16}}
data: {{answer_min_count: 1}}
training: {{epochs: 2, base_lr: 1.0e-3, batch_size: 16, random_negative_epochs: 1, negative_candidates: 8}}
search: {{encoder_blocks: 2, decoder_blocks: 3, alpha_start: 1, alpha_every: 2}}
paths: {{logs: {folder}/logs}}
"""
GENOTYPE = {
    "enc": [["self_att_64"], ["feed_forward"]],
    "dec": [["rel_self_att_64"], ["guided_att_64"], ["feed_forward"]],
}


def runs(report: Report) -> None:
    """Train, resume, score and search on a demo world by the scripts' own entry point."""
    world = report.folder / "world"
    _do_without_spacy()
    demo_world.write_world(world, report.pick(60, 20))
    with report.silence():
        pack([world / "coco_extract"], report.folder / "store", "float16")
    (report.folder / "small.yml").write_text(SETTINGS.format(folder=report.folder))
    (report.folder / "small.json").write_text(json.dumps({"epoch0": GENOTYPE}))
    whole = _run(report, "vqa", "train", "disk")
    table = _run(report, "vqa", "train", "table", "--FEATURES=device")
    _run(report, "vqa", "train", "resumed", "--MAX_EPOCH=1", "--FEATURES=memory")
    resumed = _run(report, "vqa", "train", "resumed", "--MAX_EPOCH=2", "--RESUME")
    for name, other in ("features on the device", table), ("resumed after an epoch", resumed):
        loss = abs(other.history[-1]["loss"] / whole.history[-1]["loss"] - 1)
        weights = max(largest_difference(value, other.model[key]) for key, value in whole.model.items())
        good = loss < 2e-2 if report.on_gpu else weights == 0  # sums on a GPU have no fixed order
        report.check(f"vqa, {name}, ends as one run", good, f"loss {loss:.1e}, weights {weights:.1e} apart")
    names, precisions = report.pick((TASKS, ("bf16", "tf32")), (("itm",), ("bf16",)))
    cases = [(name, "train", precision) for precision in precisions for name in names]
    for name, kind, precision in [*cases, ("vqa", "search", "bf16")]:
        made = _run(report, name, kind, f"{name}_{kind}_{precision}", f"--PRECISION={precision}")
        losses = [row["loss"] for row in made.history]
        good = bool(np.isfinite(losses).all()) and losses[-1] < losses[0] * 1.05
        report.check(f"{name} {kind}, {precision}", good, f"losses {[round(loss, 3) for loss in losses]}")
    _run(report, "vqa", "val", "disk", "--FEATURES=device")
    report.check("vqa val from a checkpoint of this device", True)


def _do_without_spacy() -> None:
    """Where spaCy is missing, start from random word vectors: nothing here depends on them."""
    if importlib.util.find_spec("spacy") is None:
        demo_world.write_vectors = lambda out, texts: 0
        base.word_vectors = lambda *_, **__: None


def _run(report: Report, name: str, kind: str, version: str, *flags: str) -> Checkpoint:
    """Run a task's script in this process; return its newest checkpoint. Raises RuntimeError if it fails."""
    folder = report.folder
    given = [f"--RUN={kind}", f"--VERSION={version}", f"--GPU={report.pick('0', 'cpu')}", *flags]
    given += [f"--DATA_PATH={folder}/world", f"--CFG={folder}/small.yml", f"--NW={report.pick(2, 0)}"]
    if name == "vqa":
        given.append(f"--FEAT_PATH={folder}/store")
    if kind in ("train", "search") and "--RESUME" not in flags:
        given += ["--MODEL=tiny", "--SPLIT=train"]
        given += [f"--GENO_PATH={folder}/small.json"] if kind == "train" else []
    with report.silence():
        code = main(task_named(name), given)
    if code:
        raise RuntimeError((folder / "log.txt").read_text(encoding="utf-8").strip().splitlines()[-1])
    return load_checkpoint(max((folder / "logs/ckpts" / f"ckpt_{version}").glob("epoch*.pkl")))


def processes(report: Report) -> None:
    """Let processes, one per GPU and two at most, average gradients; on a CPU there are two."""
    count = min(2, torch.cuda.device_count()) if report.on_gpu else 2
    devices = ",".join(map(str, range(count))) if report.on_gpu else "cpu,cpu"
    command = [sys.executable, "-m", "benchmarks.gpu_runs", devices, str(report.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = sorted(path.read_text() for path in report.folder.glob("rank*"))
    expected = [f"{'nccl' if report.on_gpu and count > 1 else 'gloo' if count > 1 else 'alone'} True"] * count
    report.check(f"{count} processes average gradients", said == expected, said or done.stderr[-300:])


def average(group: Group, folder: str) -> int:
    """Note in a file whether the gradients of this process are the average after a backward pass."""
    figures, network, batch = published_case("vqa", group.device)
    devices = [group.device] if group.device.type == "cuda" else None
    parallel = DistributedDataParallel(network, device_ids=devices) if group.size > 1 else network
    own = {name: tensor[group.rank :: group.size] for name, tensor in batch.items()}
    fixture_task(figures).loss(parallel, own)["total"].backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    before = [float(gradient.norm()) for gradient in gradients]
    group.average(gradients)
    same = all(
        abs(float(each.norm()) - norm) <= 1e-3 * norm + 1e-6 for each, norm in zip(gradients, before, strict=True)
    )
    backend = torch.distributed.get_backend() if group.size > 1 else "alone"
    Path(folder, f"rank{group.rank}").write_text(f"{backend} {same and group.gather([1]) == [1] * group.size}")
    return 0


if __name__ == "__main__":
    from benchmarks.gpu_runs import average as importable  # by the processes that this one starts

    sys.exit(launch(importable, sys.argv[1], sys.argv[2]))
