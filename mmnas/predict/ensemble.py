"""Several results with their scores averaged into one.

Probabilities are averaged. Where logits are stored, the logit of the mean is computed without leaving the
logarithms, since a probability may round to one.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmnas.engine.checkpoint import versions
from mmnas.errors import ConfigError, DataError
from mmnas.files import PathLike
from mmnas.predict.samples import drift, read_samples, score_samples
from mmnas.predict.stored import StoredResult, read_result
from mmnas.run.results import MARK, hash_of, replace_set, was_trained_on
from mmnas.tasks import task_named
from mmnas.tasks.base import Record, Result, Task
from mmnas.tasks.vgd import VGDTask

log = logging.getLogger(__name__)
BLOCK = 1024
"""Rows of scores that are averaged at a time."""
ALIKE = ("task", "scored_on", "data_set", "protocol")
"""Keys of the provenance that all parts must share."""


def combine(paths: Sequence[PathLike], out: PathLike, data_path: str | None = None) -> Result:
    """Average the results at `paths` and write the result `out`; return it.

    Raises `DataError` unless all are of the same samples and have scores, `ConfigError` for an `out` that exists.
    """
    out = Path(out)
    if len(paths) < 2 or out.suffix != ".json" or out.exists():
        raise ConfigError(f"name two results or more, and last a new .json file, which {out} is not")
    first, *others = parts = [read_result(path, data_path) for path in paths]
    task = task_named(first.config.task)(first.config)
    for key, part in ((key, part) for part in others for key in ALIKE):
        if (own := part.provenance.get(key)) != (other := first.provenance.get(key)):
            raise DataError(f"{part.path} has the {key} {own}, {first.path} {other}: name results of one kind")
    samples = read_samples(first.config, first.split)
    for part in parts:
        part.require_same_samples(samples.rows, f"{first.split} in {first.config.paths.data}")
    if isinstance(task, VGDTask):
        records = _average_boxes(task, parts, samples.boxes)
    else:
        records = _average_logits(task, parts)
    result = task.score(records, samples.dataset)
    for part in parts if result.summary else ():
        if told := drift(part, score_samples(part, samples)):
            log.warning("%s %s", part.path, told)
    replace_set(out, result, _provenance(parts, result))
    return result


def mean_logits(logits: Sequence[np.ndarray]) -> np.ndarray:
    """Return the logit of the mean of the probabilities whose logits are given."""
    each = np.stack(logits).astype(np.float64)
    yes, no = (np.logaddexp.reduce(-np.logaddexp(0, sign * each), axis=0) for sign in (-1, 1))
    return yes - no


def _arrays(
    parts: Sequence[StoredResult], name: str, same: slice, kind: str, *sides: int | None
) -> list[np.ndarray]:
    """Return an array of each result. Raises `DataError` unless shapes, and values within `same`, are equal."""
    first, *others = arrays = [part.array(name, kind, *sides) for part in parts]
    for part, array in zip(parts[1:], others, strict=True):
        alike = array.shape == first.shape and array.dtype == first.dtype
        if not alike or not np.array_equal(array[..., same], first[..., same], equal_nan=first.dtype.kind == "f"):
            raise DataError(
                f"{part.path} has other answers or regions than {parts[0].path}: combine models that were trained "
                "on the same answers and scored with the same features"
            )
    return arrays


def _average_logits(task: Task, parts: Sequence[StoredResult]) -> list[Record]:
    """Average the scores of answers, or of images with captions."""
    images = [row for row in parts[0].rows if row.caption is None]  # or questions
    answers = _arrays(parts, "answers", slice(None), "U", None)[0].tolist() if task.name == "vqa" else []
    columns = len(answers) or len(parts[0].rows) - len(images)
    task.vocabularies = {"answers": answers}
    rows = enumerate(_rows(_arrays(parts, "scores", slice(0), "f", len(images), columns)))
    if not answers:
        return [{"index": index, "logits": row} for index, row in rows]
    return [{"index": index, "answer": answers[row.argmax()], "scores": row} for index, row in rows]


def _rows(arrays: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    for start in range(0, len(arrays[0]), BLOCK):
        yield from mean_logits([array[start : start + BLOCK] for array in arrays]).astype(arrays[0].dtype)


def _average_boxes(task: VGDTask, parts: Sequence[StoredResult], references: np.ndarray) -> list[Record]:
    """Average the score and the moved box of each region (E, K, 9)."""
    tables = _arrays(parts, "scores", slice(5, 9), "f", len(parts[0].rows), None, 9)
    mean = torch.from_numpy(np.mean(tables, axis=0, dtype=np.float64)).float()
    mask = mean[..., 0].isfinite()
    scores, boxes, regions = mean.nan_to_num(-1).split([1, 4, 4], dim=2)
    batch = {"index": torch.arange(len(mean)), "boxes": regions, "region_mask": mask}
    batch["reference"] = torch.from_numpy(references)
    records = task.choose(batch, scores[..., 0].argmax(dim=1), scores[..., 0], boxes)
    return [{**record, "scores": row} for record, row in zip(records, mean.numpy(), strict=True)]


def _provenance(parts: Sequence[StoredResult], result: Result) -> dict[str, Any]:
    """Return what all parts share, what the ensemble scores, and where each part comes from."""
    own, *others = (part.provenance for part in parts)
    shared = {key: value for key, value in own.items() if all(other.get(key) == value for other in others)}
    seen = list(dict.fromkeys(split for part in parts for split in part.provenance["seen_splits"]))
    kept = ("checkpoint", "checkpoint_sha256", "summary", "files", "parts")
    origins = [{key: part.provenance[key] for key in kept if key in part.provenance} for part in parts]
    for part, origin in zip(parts, origins, strict=True):
        origin |= {"result": str(part.path), "meta_sha256": hash_of(part.path.with_suffix(".meta.json"))}
    figures = {MARK: was_trained_on(parts[0].split, seen), "summary": result.summary, "versions": versions()}
    return {**shared, "config": own["config"], "seen_splits": seen, **figures, "parts": origins}
