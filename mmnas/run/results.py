"""What scoring a split leaves on the disk: predictions, metrics, and beside them where they come from."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from mmnas.engine.checkpoint import versions
from mmnas.files import replacing, write_json
from mmnas.genotype import Genotype
from mmnas.run.plan import Plan
from mmnas.tasks.base import Result, Task

log = logging.getLogger(__name__)

MARK = "scored_split_was_trained_on"


def write_result(result: Result, task: Task, plan: Plan, split: str, samples: int, processes: int = 1) -> Path:
    """Write predictions, arrays, metrics and provenance; return the path of the predictions.

    `processes` is how many computed the result. That a split was trained on stands in the metrics, in the
    provenance, and beside every figure of the table that is logged.
    """
    several = len(task.splits_of(plan.run)) > 1
    path = plan.config.files.result(plan.run, split if several else "")
    seen = _trained_on(plan, split)
    write_json(path, result.predictions)
    for name, array in result.arrays.items():
        with replacing(path.with_suffix(f".{name}.npy")) as temporary, open(temporary, "wb") as file:
            np.save(file, array, allow_pickle=False)
    if result.metrics:
        metrics = {MARK: True, **result.metrics} if seen else result.metrics
        write_json(path.with_suffix(".metrics.json"), metrics, indent=1)
    provenance = _provenance(result, task, plan, split, samples, processes)
    write_json(path.with_suffix(".meta.json"), provenance, indent=1)
    if seen:
        named = ", ".join(_seen_splits(plan))
        log.warning("%s was trained on (--SPLIT=%s): this is no held-out score", split, named)
    for name, value in result.summary.items():
        log.info("%s%-12s %6.2f%s", f"{split:<8}" if several else "", name, value, "  (trained on)" if seen else "")
    log.info("result: %s", path)
    return path


def _trained_on(plan: Plan, split: str) -> bool:
    """Whether the weights have seen `split`, in this run or in one that it was fine-tuned from."""
    return any(split in seen.split("+") for seen in _seen_splits(plan))


def _seen_splits(plan: Plan) -> list[str]:
    seen = plan.checkpoint.seen_splits if plan.checkpoint else []
    return seen or [plan.config.split]


def _provenance(result: Result, task: Task, plan: Plan, split: str, samples: int, processes: int) -> dict[str, Any]:
    config = plan.config
    return {
        "task": config.task,
        "data_set": config.data.dataset or config.task,
        "protocol": config.data.protocol or None,
        "feature_kind": config.data.feature_kind or None,
        "size": config.size,
        "trained_on": config.split,
        "seen_splits": _seen_splits(plan),
        "scored_on": split,
        MARK: _trained_on(plan, split),
        "summary": result.summary,
        **_checkpoint(plan),
        "genotype": plan.genotype.to_dict(),
        "genotype_sha256": genotype_hash(plan.genotype),
        "seed": config.training.seed,
        "precision": config.training.precision,
        "processes": processes,
        "counts": {
            "samples": samples,
            "predictions": len(result.predictions),
            **{name: len(words) for name, words in task.vocabularies.items()},
        },
        "config": config.to_dict(),
        "versions": versions(),
    }


def _checkpoint(plan: Plan) -> dict[str, Any]:
    """Say which weights were scored; released ones do not tell how they were trained."""
    own = plan.checkpoint
    assert plan.source is not None
    return {
        "checkpoint": str(plan.source.path),
        "checkpoint_sha256": plan.source.sha256(),
        "epochs_trained": own.epoch if own else None,
        "training_processes": own.processes if own else None,
        "training_versions": own.versions if own else None,
    }


def genotype_hash(genotype: Genotype) -> str:
    """Return the SHA-256 of a genotype's JSON without spaces, its keys sorted."""
    text = json.dumps(genotype.to_dict(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
