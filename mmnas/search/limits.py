"""What paths through a search space cost, and the limits that a search may set: `--MACS`, `--PARAMS`, `--MAX_SKIP`.

A limit always holds for what is found. In expectation under the architecture parameters it also enters the loss, as
latency does in ProxylessNAS.
"""

import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import itemgetter

import numpy as np

from mmnas.config import Config, load_config
from mmnas.errors import ConfigError
from mmnas.genotype import Genotype
from mmnas.models.cost import Cost, genotype_costs
from mmnas.models.operations import Sizes
from mmnas.search.supernet import space_of

# How much of each limited amount a candidate takes.
AMOUNTS: dict[str, Callable[[Cost], int]] = {
    "macs": lambda cost: cost.multiply_adds,
    "params": lambda cost: cost.parameters,
    "max_skip": lambda cost: not cost.parameters,
}
STATES = 1000  # so many combinations of used amounts are told apart on the way to the most probable path
SUFFIXES = {"K": 1e3, "M": 1e6, "G": 1e9}


class Limits:
    """The costs of every block's candidates, and the most that a path may take of each limited amount."""

    def __init__(self, costs: Sequence[Sequence[Cost]], **most: float) -> None:
        self.costs = costs
        self.most = np.array([*most.values()], np.float64)  # (limits,)
        names = [AMOUNTS[name] for name in most]
        self.amounts = [np.array([[amount(cost) for amount in names] for cost in row], np.float64) for row in costs]
        least = [amounts.min(0) for amounts in self.amounts]
        self.rest = [*accumulate(reversed(least[1:]), initial=0 * self.most)][::-1]  # of the blocks after each
        for name, low, high in zip(most, self.rest[0] + least[0], self.most, strict=True):
            if low > high:
                raise ConfigError(
                    f"--{name.upper()}={high:.0f} is too small: no genotype takes less than {low:.0f}"
                )

    def cost(self, path: Sequence[int]) -> Cost:
        """Return what the blocks of a path cost."""
        return sum((row[index] for row, index in zip(self.costs, path, strict=True)), Cost())

    def most_probable(self, probabilities: Sequence[np.ndarray], count: int = 1) -> list[list[int]]:
        """Return up to `count` paths within the limits, the most probable first, of equals the first.

        Goes block by block; of the paths that have used nearly the same amounts, the most probable ones go on.
        """
        order, steps = itemgetter(0, 1), int(STATES ** (1 / max(1, len(self.most))))
        held: list[tuple[float, tuple[int, ...], np.ndarray]] = [(0.0, (), 0 * self.most)]
        for p, amounts, rest in zip(probabilities, self.amounts, self.rest, strict=True):
            grown = defaultdict(list)
            for surprise, path, used in held:
                for index in self._fitting(used, amounts, rest):
                    total, own = used + amounts[index], -math.log(max(p[index], 1e-300))
                    state = tuple(total * steps // np.maximum(self.most, 1))
                    grown[state].append((surprise + own, (*path, int(index)), total))
            held = [path for paths in grown.values() for path in heapq.nsmallest(count, paths, order)]
        return [list(path) for _, path, _ in heapq.nsmallest(count, held, order)]

    def draw(self, rng: np.random.Generator) -> list[int]:
        """Draw a path; in each block every candidate that leaves room for the others is equally likely."""
        path, used = [], 0 * self.most
        for amounts, rest in zip(self.amounts, self.rest, strict=True):
            path.append(int(rng.choice(self._fitting(used, amounts, rest))))
            used = used + amounts[path[-1]]
        return path

    def neighbors(self, path: Sequence[int]) -> list[list[int]]:
        """Return the paths within the limits that differ from `path` in one block."""
        used = sum((row[index] for row, index in zip(self.amounts, path, strict=True)), 0 * self.most)
        return [
            [*path[:block], int(index), *path[block + 1 :]]
            for block, row in enumerate(self.amounts)
            for index in self._fitting(used - row[path[block]], row, 0 * self.most)
            if index != path[block]
        ]

    def _fitting(self, used: np.ndarray, amounts: np.ndarray, rest: np.ndarray) -> np.ndarray:
        """Return the candidates of a block that stay within the limits, given what else is used at least."""
        return np.flatnonzero((used + amounts + rest <= self.most).all(1))

    def excess(self, probabilities: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return each candidate's share of the limits that the expected amounts exceed: the slope of the excess."""
        expected = sum((p @ row for p, row in zip(probabilities, self.amounts, strict=True)), 0 * self.most)
        weight = (expected > self.most) / np.maximum(self.most, 1)  # (limits,)
        return [row @ weight for row in self.amounts]


def checked_space(config: Config) -> Genotype:
    """Return the search space of a configuration. Raises `ConfigError` if nothing in it meets the limits."""
    space = space_of(config)
    limits_of(config, space)
    return space


def limits_of(config: Config, space: Genotype) -> Limits:
    """Return the limits that a configuration sets; costs are those at the size that genotypes are trained with."""
    search, data, model = config.search, config.data, config.model
    if config.size == "search":
        model = load_config(config.task, "small", split="", version="").model
    sizes = Sizes(model.hidden_size, model.relation_size, model.head_scale)
    alone = Genotype(*(tuple((name,) for name in rows[0]) for rows in (space.encoder, space.decoder)))
    encoder, decoder = genotype_costs(alone, sizes, regions=data.max_regions, tokens=data.max_tokens)
    costs = [encoder] * len(space.encoder) + [decoder] * len(space.decoder)
    most = {name: amount(text) for name in ("macs", "params") if (text := getattr(search, name))}
    if search.max_skip < len(costs):
        most["max_skip"] = search.max_skip
    return Limits(costs, **most)


def amount(text: str) -> float:
    """Return the number that a text such as 2.0G, 40M or 500000 stands for."""
    return float(text.rstrip("KMG")) * SUFFIXES.get(text[-1], 1)
