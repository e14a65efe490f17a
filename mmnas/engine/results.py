"""What scoring a split leaves on the disk: predictions, metrics, and beside them where they come from."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from mmnas.engine.checkpoint import versions
from mmnas.engine.plan import Plan
from mmnas.files import replacing, write_json
from mmnas.tasks.base import Result, Task

log = logging.getLogger(__name__)


def write_result(result: Result, task: Task, plan: Plan, split: str, samples: int) -> Path:
    """Write predictions, arrays, metrics and provenance; return the path of the predictions."""
    folder = Path(plan.config.paths.logs) / "ckpts" / f"result_{plan.run}"
    several = len(task.splits_of(plan.run)) > 1
    path = folder / f"result_run_{plan.config.version}{f'_{split}' if several else ''}.json"
    write_json(path, result.predictions)
    for name, array in result.arrays.items():
        with replacing(path.with_suffix(f".{name}.npy")) as temporary, open(temporary, "wb") as file:
            np.save(file, array, allow_pickle=False)
    if result.metrics:
        write_json(path.with_suffix(".metrics.json"), result.metrics, indent=1)
    write_json(path.with_suffix(".meta.json"), _provenance(result, task, plan, split, samples), indent=1)
    seen = _trained_on(task, split)
    if seen:
        log.warning("%s was trained on (--SPLIT=%s): this is no held-out score", split, plan.config.split)
    for name, value in result.summary.items():
        log.info("%s%-12s %6.2f%s", f"{split:<8}" if several else "", name, value, "  (trained on)" if seen else "")
    log.info("result: %s", path)
    return path


def _trained_on(task: Task, split: str) -> bool:
    return split == "val" and not task.scores_val


def _provenance(result: Result, task: Task, plan: Plan, split: str, samples: int) -> dict[str, Any]:
    config = plan.config
    return {
        "task": config.task,
        "size": config.size,
        "trained_on": config.split,
        "scored_on": split,
        "scored_split_was_trained_on": _trained_on(task, split),
        "summary": result.summary,
        "checkpoint": str(plan.checkpoint_path),
        "epochs_trained": getattr(plan.checkpoint, "epoch", None),
        "genotype": plan.genotype.to_dict(),
        "seed": config.training.seed,
        "counts": {
            "samples": samples,
            "predictions": len(result.predictions),
            **{name: len(words) for name, words in task.vocabularies.items()},
        },
        "config": config.to_dict(),
        "versions": versions(),
    }
