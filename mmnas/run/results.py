"""The files that scoring a split writes: predictions, metrics, and their provenance."""

import contextlib
import hashlib
import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from mmnas.engine.checkpoint import versions
from mmnas.errors import ConfigError, DataError
from mmnas.files import read_json, replacing, sha256_of
from mmnas.genotype import Genotype
from mmnas.run.plan import UNKNOWN, Plan
from mmnas.tasks.base import Result, Task

log = logging.getLogger(__name__)

MARK = "scored_split_was_trained_on"
_NOTES = {
    True: "%s was trained on (--SPLIT=%s): this is no held-out score",
    UNKNOWN: "%s may have been trained on (--SPLIT=%s): whether this is a held-out score is unknown",
}


def was_trained_on(split: str, seen_splits: list[str]) -> bool | str:
    """Return whether weights that have seen these values of --SPLIT know `split`; `UNKNOWN` if nothing tells."""
    seen = {part for splits in seen_splits for part in splits.split("+")}
    return split in seen or (UNKNOWN if UNKNOWN in seen else False)


def warn_if_seen(split: str, seen_splits: list[str]) -> None:
    """Warn about scores of a split that was, or may have been, trained on."""
    if mark := was_trained_on(split, seen_splits):
        log.warning(_NOTES[mark], split, ", ".join(seen_splits))


def warn_if_other_features(task: Task, plan: Plan) -> None:
    """Warn when the region features are not of the detector and settings that the weights were trained on."""
    trained = _training_features(plan)
    if task.made_by and trained not in (UNKNOWN, str(task.made_by)):
        log.warning("%s was trained on features of %s, but these are of %s", task.weights, trained, task.made_by)


def _training_features(plan: Plan) -> str:
    return plan.checkpoint.data.get("features", UNKNOWN) if plan.checkpoint else UNKNOWN


def check_earlier(task: Task, plan: Plan, split: str) -> None:
    """Warn when the result of another checkpoint will be replaced; refuse that unless the user named the run."""
    path = _path(task, plan, split)
    provenance = _provenance(path)
    assert plan.source is not None
    if path.exists() and provenance.get("checkpoint_sha256") != plan.source.sha256:
        if not plan.named:
            raise ConfigError(f"{path} is the result of another checkpoint: choose another name by --VERSION")
        log.warning("%s is the result of another checkpoint and will be replaced", path)


def write_result(result: Result, task: Task, plan: Plan, split: str, samples: int, processes: int = 1) -> Path:
    """Write predictions, arrays, metrics and provenance; return the path of the predictions.

    `processes` is how many computed the result. A split that was trained on is marked in the metrics, in the
    provenance, and next to every figure of the table that is logged.
    """
    path, mark = _path(task, plan, split), was_trained_on(split, plan.seen_splits)
    counts = {"samples": samples, "predictions": len(result.predictions)}
    counts |= {name: len(words) for name, words in task.vocabularies.items()}
    figures = {"scored_on": split, MARK: mark, "summary": result.summary, "processes": processes, "counts": counts}
    figures["features"] = str(task.made_by or UNKNOWN)
    replace_set(path, result, {**_describe_run(plan), **figures})
    warn_if_seen(split, plan.seen_splits)
    note = {True: "  (trained on)", UNKNOWN: "  (unknown whether trained on)"}.get(mark, "")
    head = f"{split:<8}" if len(task.splits_of(plan.run)) > 1 else ""
    for name, value in result.summary.items():
        log.info("%s%-12s %6.2f%s", head, name, value, note)
    log.info("result: %s", path)
    return path


def _path(task: Task, plan: Plan, split: str) -> Path:
    several = len(task.splits_of(plan.run)) > 1
    return plan.config.files.result(plan.run, split if several else "")


def _provenance(path: Path) -> dict[str, Any]:
    """Return the provenance of the result at `path`; nothing where there is none to be read."""
    try:
        value = read_json(path.with_suffix(".meta.json"))
    except DataError:
        return {}
    return value if isinstance(value, dict) else {}


def changed_files(path: Path) -> list[str]:
    """Return the files of the result at `path` that are not the ones its provenance was written for."""
    files = _provenance(path).get("files")
    named = files.items() if isinstance(files, dict) else ()
    return [name for name, digest in named if hash_of(path.with_name(Path(name).name)) != digest]


def hash_of(path: Path) -> str | None:
    """Return the SHA-256 of a file, None for one that cannot be read."""
    try:
        with open(path, "rb") as file:
            return sha256_of(file)
    except (OSError, ValueError):  # the latter for an empty file
        return None


def replace_set(path: Path, result: Result, provenance: dict[str, Any]) -> None:
    """Replace the files of a result as a set: all are complete on the disk before the first is renamed.

    The provenance is renamed last. It holds the SHA-256 of the others, so that a set that was cut off can be told.
    """
    contents: dict[Path, Any] = {path: result.predictions}
    contents |= {path.with_suffix(f".{name}.npy"): array for name, array in result.arrays.items()}
    if result.metrics:
        mark = {MARK: provenance[MARK]} if provenance[MARK] else {}
        contents[path.with_suffix(".metrics.json")] = {**mark, **result.metrics}
    earlier = _provenance(path).get("files")
    hashes: dict[str, str] = {}
    with contextlib.ExitStack() as stack:  # which leaves, and so renames, in the reverse order
        last = stack.enter_context(replacing(path.with_suffix(".meta.json")))
        for each, value in contents.items():
            hashes[each.name] = _write(stack.enter_context(replacing(each)), value)
        _write(last, {**provenance, "files": hashes})
    own = re.compile(rf"{re.escape(path.stem)}\.(metrics\.json|\w+\.npy)")
    for name in {f"{path.stem}.metrics.json", *(earlier if isinstance(earlier, dict) else ())} - set(hashes):
        if own.fullmatch(name):  # of the earlier result, and not of this one
            path.with_name(name).unlink(missing_ok=True)


def _write(path: Path, value: Any) -> str:
    """Write an array, rows or a mapping to `path`; return the SHA-256 of the file."""
    with open(path, "wb+") as file:
        if isinstance(value, np.ndarray):
            np.save(file, value, allow_pickle=False)
        else:
            text = json.dumps(
                value, ensure_ascii=False, allow_nan=False, indent=1 if isinstance(value, dict) else None
            )
            file.write(f"{text}\n".encode())
        file.flush()
        os.fsync(file.fileno())
        return sha256_of(file)


def _describe_run(plan: Plan) -> dict[str, Any]:
    """Return what is known of a result's weights, data and settings; released weights tell nothing of theirs."""
    config, own, source = plan.config, plan.checkpoint, plan.source
    assert source is not None
    return {
        "task": config.task,
        "data_set": config.data.dataset or config.task,
        "protocol": config.data.protocol or None,
        "feature_kind": config.data.feature_kind or None,
        "size": config.size,
        "trained_on": config.split if own else UNKNOWN,
        "seen_splits": plan.seen_splits,
        "checkpoint": str(source.path),
        "checkpoint_sha256": source.sha256,
        "epochs_trained": own.epoch if own else None,
        "training_processes": own.processes if own else None,
        "training_versions": own.versions if own else None,
        "training_features": _training_features(plan),
        "genotype": plan.genotype.to_dict(),
        "genotype_sha256": genotype_hash(plan.genotype),
        "seed": config.training.seed,
        "precision": config.training.precision,
        "config": config.to_dict(),
        "versions": versions(),
    }


def genotype_hash(genotype: Genotype) -> str:
    """Return the SHA-256 of a genotype's JSON without spaces, its keys sorted."""
    text = json.dumps(genotype.to_dict(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
