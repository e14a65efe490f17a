"""The files that scoring a split writes: predictions, metrics, and their provenance."""

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

    `processes` is how many computed the result. A split that was trained on is marked in the metrics, in the
    provenance, and next to every figure of the table that is logged.
    """
    several = len(task.splits_of(plan.run)) > 1
    path = plan.config.files.result(plan.run, split if several else "")
    trained_on = _trained_on(plan)
    seen = any(split in splits.split("+") for splits in trained_on)
    write_json(path, result.predictions)
    for name, array in result.arrays.items():
        with replacing(path.with_suffix(f".{name}.npy")) as temporary, open(temporary, "wb") as file:
            np.save(file, array, allow_pickle=False)
    if result.metrics:
        metrics = {MARK: True, **result.metrics} if seen else result.metrics
        write_json(path.with_suffix(".metrics.json"), metrics, indent=1)
    counts = {"samples": samples, "predictions": len(result.predictions)}
    counts |= {name: len(words) for name, words in task.vocabularies.items()}
    figures = {"scored_on": split, MARK: seen, "summary": result.summary, "processes": processes, "counts": counts}
    write_json(path.with_suffix(".meta.json"), {**_describe_run(plan), **figures}, indent=1)
    if seen:
        log.warning("%s was trained on (--SPLIT=%s): this is no held-out score", split, ", ".join(trained_on))
    for name, value in result.summary.items():
        log.info("%s%-12s %6.2f%s", f"{split:<8}" if several else "", name, value, "  (trained on)" if seen else "")
    log.info("result: %s", path)
    return path


def _trained_on(plan: Plan) -> list[str]:
    """Return the values of --SPLIT that the weights have seen, in this run and in those it was fine-tuned from."""
    seen = plan.checkpoint.seen_splits if plan.checkpoint else []
    return seen or [plan.config.split]


def _describe_run(plan: Plan) -> dict[str, Any]:
    """Return what is known of a result's weights, data and settings."""
    config = plan.config
    return {
        "task": config.task,
        "data_set": config.data.dataset or config.task,
        "protocol": config.data.protocol or None,
        "feature_kind": config.data.feature_kind or None,
        "size": config.size,
        "trained_on": config.split,
        "seen_splits": _trained_on(plan),
        **_checkpoint(plan),
        "genotype": plan.genotype.to_dict(),
        "genotype_sha256": genotype_hash(plan.genotype),
        "seed": config.training.seed,
        "precision": config.training.precision,
        "config": config.to_dict(),
        "versions": versions(),
    }


def _checkpoint(plan: Plan) -> dict[str, Any]:
    """Describe the scored weights; released ones do not tell how they were trained."""
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
