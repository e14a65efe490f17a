"""The final choice: paths scored by the trained supernet on the held-out part of the data.

The controls need nothing else: random paths, and regularized evolution (Real et al., AAAI 2019).
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from mmnas.batch import Batch
from mmnas.config import SearchConfig
from mmnas.engine.distributed import Group
from mmnas.engine.steps import autocast
from mmnas.errors import DataError
from mmnas.search.limits import Limits
from mmnas.search.supernet import Supernet
from mmnas.tasks.base import Task

POPULATION, TOURNAMENT = 16, 4
CONTROL = 64  # paths that a control scores, where --CHOOSE is left out
TRIES = 20  # to find another path in a small space, per path that is asked for

Path = tuple[int, ...]
Score = Callable[[Path], float]
"""Of a path; the lower the better."""


class HeldOut:
    """Batches of the held-out part on which all paths are scored alike, by all processes together."""

    def __init__(self, task: Task, supernet: Supernet, group: Group, batches: Iterable[Batch]) -> None:
        self.task, self.supernet, self.group = task, supernet, group
        self.batches = [task.with_totals(batch) for batch in batches]

    def loss(self, path: Sequence[int]) -> float:
        """Return a path's mean loss. Raises `DataError` unless it is finite, for nothing is chosen by NaN."""
        network = self.supernet.network(path).eval()
        with torch.inference_mode(), autocast(self.task.config, self.group.device):
            losses = [self.task.loss(network, batch)["total"].double() for batch in self.batches]
            mean = torch.stack(losses).mean()[None]
            self.group.average([mean])
        if not mean.isfinite():
            raise DataError(
                "a path's loss on the held-out part is not finite; the checkpoints are intact: look at that part's "
                "features (check-data --full), or lower training.base_lr"
            )
        return float(mean)


def scores_of(
    search: SearchConfig,
    limits: Limits,
    probabilities: Sequence[np.ndarray],
    score: Score,
    rng: np.random.Generator,
) -> dict[Path, float]:
    """Return the scores of the paths that a search compares in the end."""
    count = search.choose or CONTROL
    if search.strategy == "paper":
        paths = [tuple(path) for path in limits.most_probable(probabilities, count)]
    else:
        paths = _drawn(limits, rng, count if search.strategy == "random" else min(POPULATION, count))
    scores = {path: score(path) for path in paths}
    if search.strategy == "evolution":
        _evolve(scores, limits, score, rng, count)
    return scores


def _drawn(limits: Limits, rng: np.random.Generator, count: int) -> list[Path]:
    """Return up to `count` different random paths."""
    paths: dict[Path, None] = {}
    for _ in range(TRIES * count):
        if len(paths) < count:
            paths[tuple(limits.draw(rng))] = None
    return list(paths)


def _evolve(scores: dict[Path, float], limits: Limits, score: Score, rng: np.random.Generator, count: int) -> None:
    """Add scores up to `count`: again and again, mutate the best of some drawn paths; the oldest path dies."""
    population: deque[Path] = deque(scores, POPULATION)
    for _ in range(TRIES * count):
        drawn = [population[index] for index in rng.integers(len(population), size=TOURNAMENT)]
        parent = min(drawn, key=scores.__getitem__)
        nearby = limits.neighbors(parent)
        if len(scores) == count or not nearby:
            break
        population.append(tuple(nearby[rng.integers(len(nearby))]))
        if population[-1] not in scores:
            scores[population[-1]] = score(population[-1])
