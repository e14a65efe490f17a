"""What a task and the engine hand each other: the result of scoring, and the tools for it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmnas.batch import Batch
from mmnas.data.samples import SizedDataset

Record = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What scoring a split gave; figures are empty where the split has no references."""

    predictions: list[Record]
    """The rows of the result file."""
    summary: dict[str, float]
    """The figures to show."""
    metrics: dict[str, Any]
    """All figures."""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    """Written next to the result file, under their names."""


def take_scores(predictions: list[Record]) -> dict[str, np.ndarray]:
    """Take the rows of scores out of records that hold them; return them as one array, short rows ending in NaN.

    Rows leave the records one by one, so that the scores of VQA's test split are never in memory twice.
    """
    if not predictions or "scores" not in predictions[0]:
        return {}
    longest, row = max(len(each["scores"]) for each in predictions), predictions[0]["scores"]
    scores = np.empty((len(predictions), longest, *row.shape[1:]), row.dtype)
    for target, prediction in zip(scores, predictions, strict=True):
        row = prediction.pop("scores")
        target[: len(row)], target[len(row) :] = row, np.nan
    return {"scores": scores}


@dataclass(frozen=True)
class Tools:
    """What the engine lends a task: its rank among the processes, exchange with them, loading, progress."""

    rank: int
    processes: int
    gather: Callable[[list[Any]], list[Any]]
    """Return the rows of all processes, those of rank 0 first."""
    progress: Callable[..., Any]
    """`progress(items, title)`: the items behind a progress bar."""
    load: Callable[[SizedDataset, Sequence[list[int]], str], Iterable[Batch]]
    """`load(dataset, batches, title)`: batches of the listed samples, behind a progress bar."""
