"""What a study of searches has measured: how well supernets rank, and what was found against MCAN and random ones.

    python3 -m benchmarks.search_tables --folder FOLDER [--png ranking.png] [--costs costs.png]

Reads what `benchmarks.search_ranking` has written. Kendall's tau-b counts pairs of genotypes that supernet and
training order alike, less those that they order differently; its interval holds 95 % of 2000 bootstrap samples of
the genotypes. The picture shows, for each search of seed 0, the supernet's loss beside the accuracy trained alone.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search_ranking import TRAINING, Study, contestants
from mmnas.config import load_config
from mmnas.genotype import Genotype
from mmnas.metrics.resampling import interval
from mmnas.models.cost import genotype_costs
from mmnas.models.operations import Sizes
from mmnas.search.drawing import GRAY, INK, in_words, save_png

RANDOMS = 5
ROUNDS = 2000


def kendall(one: np.ndarray, other: np.ndarray) -> float:
    """Return Kendall's tau-b (Kendall 1945) of two rows of figures (N,); nan where one of them is constant."""
    signs = [np.sign(row[:, None] - row[None, :]) for row in (one, other)]  # (N, N)
    return float((signs[0] * signs[1]).sum() / np.sqrt((signs[0] ** 2).sum() * (signs[1] ** 2).sum()))


def kendall_interval(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Return the bootstrap interval of Kendall's tau over genotypes."""
    rng = np.random.default_rng(0)
    draws = (rng.integers(len(one), size=len(one)) for _ in range(ROUNDS))
    with np.errstate(invalid="ignore"):
        return interval(np.array([kendall(one[drawn], other[drawn]) for drawn in draws]))


def ranking(one: np.ndarray, other: np.ndarray) -> str:
    """Return the cells of a table: how many genotypes, Kendall's tau, its interval."""
    low, high = kendall_interval(one, other)
    return f"{len(one)} | {kendall(one, other):.2f} | {low:.2f} to {high:.2f}"


def million_multiply_adds(task: str, genotype: Genotype) -> float:
    """Return what a genotype's blocks cost in the tiny network."""
    config = load_config(task, "tiny", split="train", version="cost")
    sizes = Sizes(config.model.hidden_size, config.model.relation_size, config.model.head_scale)
    limits = {"regions": config.data.max_regions, "tokens": config.data.max_tokens}
    return sum(cost.multiply_adds for stream in genotype_costs(genotype, sizes, **limits) for cost in stream) / 1e6


# Rankings that need no supernet: the more, the better.
RULES: dict[str, Callable[[str, Genotype], float]] = {
    "fewer multiply-adds": lambda task, genotype: -million_multiply_adds(task, genotype),
    "more guided attention": lambda _, genotype: sum(row == ("guided_att_64",) for row in genotype.decoder),
}


class Results:
    """The results in a folder, by task, genotype and seed."""

    def __init__(self, folder: Path) -> None:
        study = Study(folder)
        self.trained = {
            (row["task"], in_words(Genotype.from_dict(row["genotype"])), row["seed"]): row
            for row in study.trained.rows.values()
            if row["settings"] == TRAINING[row["task"]]
        }
        self.searches = list(study.searches.rows.values())

    def accuracy(self, task: str, genotype: str, seed: int) -> float:
        """Return the accuracy of a genotype trained alone, nan where it was not trained."""
        row = self.trained.get((task, genotype, seed))
        return row["accuracy"] if row else np.nan

    def pairs(self, search: dict[str, Any]) -> np.ndarray:
        """Return (2, N): the supernet's losses of the genotypes that were trained with seed 0; their accuracies."""
        rows = ((loss, self.accuracy(search["task"], name, 0)) for name, loss in search["losses"].items())
        return np.array([row for row in rows if not np.isnan(row[1])]).T.reshape(2, -1)

    def rankings(self) -> Iterator[str]:
        """Yield a table of rankings."""
        yield "| search | genotypes | Kendall's tau | 95 % interval | cost, in trainings |"
        yield "|---|---|---|---|---|"
        for search in self.searches:
            loss, accuracy = self.pairs(search)
            if len(loss) >= 3:
                seconds = [row["cpu_seconds"] for row in self.trained.values() if row["task"] == search["task"]]
                cost = f"{search['search_seconds'] / np.median(seconds):.1f}"
                yield f"| {name_of(search)} | {ranking(-loss, accuracy)} | {cost} |"
        for task in dict.fromkeys(search["task"] for search in self.searches):
            for title, rule in RULES.items():
                pairs = [
                    (rule(task, each), self.accuracy(task, in_words(each), 0)) for each in contestants(task, 24)
                ]
                yield f"| {task}, no supernet: {title} | {ranking(*np.array(pairs).T)} | 0 |"

    def contests(self) -> Iterator[str]:
        """Yield a table of what was found, against MCAN's pattern and the best random genotype of the same seed."""
        yield "| search | chosen | million multiply-adds | most probable | MCAN | random, mean | random, best |"
        yield "|---|---|---|---|---|---|---|"
        for search in self.searches:
            task, seed = search["task"], search["seed"]
            found = [
                in_words(Genotype.from_dict(search[name])) if name in search else "" for name in ("found", "argmax")
            ]
            mcan, *randoms = map(in_words, contestants(task, RANDOMS))
            others = np.array([self.accuracy(task, name, seed) for name in randoms])
            values = [self.accuracy(task, name, seed) for name in (*found, mcan)]
            values += [others.mean(), others.max()]
            values.insert(1, million_multiply_adds(task, Genotype.from_dict(search["found"])))
            cells = " | ".join("" if np.isnan(value) else f"{value:.2f}" for value in values)
            yield f"| {name_of(search)} | {cells} |"

    def draw(self, path: Path) -> None:
        """Draw a panel per search with seed 0."""
        from matplotlib.figure import Figure

        shown = [search for search in self.searches if not search["seed"] and len(self.pairs(search)[0]) >= 3]
        columns = min(4, len(shown))
        rows = -(-len(shown) // columns)
        figure = Figure(figsize=(3.2 * columns, 2.8 * rows), layout="constrained")
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes in grid[len(shown) :]:
            axes.set_visible(False)
        for axes, search in zip(grid, shown, strict=False):
            loss, accuracy = self.pairs(search)
            mcan = next(iter(search["losses"])), search["losses"][next(iter(search["losses"]))]
            axes.scatter(loss, accuracy, s=18, color=GRAY, label="random genotypes")
            own = self.accuracy(search["task"], mcan[0], 0)
            axes.scatter([mcan[1]], [own], s=40, marker="D", color="#2b6cb0", label="MCAN's pattern")
            axes.set_title(f"{name_of(search)}: tau {kendall(-loss, accuracy):.2f}", fontsize=9, color=INK)
            axes.set_xlabel("loss in the supernet", fontsize=8)
            axes.set_ylabel("accuracy trained alone", fontsize=8)
            axes.tick_params(labelsize=7, colors=GRAY)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(fontsize=7, frameon=False)
        save_png(figure, path)


def draw_costs(results: Results, path: Path) -> None:
    """Draw the accuracy of what was found, and of random genotypes, by their cost: a panel per task, seed 0."""
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(search["task"] for search in results.searches))
    figure = Figure(figsize=(5 * len(tasks), 3.6), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False).flat, tasks, strict=True):
        rows = [row for (name, _, seed), row in results.trained.items() if name == task and seed == 0]
        costs = [million_multiply_adds(task, Genotype.from_dict(row["genotype"])) for row in rows]
        axes.scatter(costs, [row["accuracy"] for row in rows], s=14, color=GRAY, label="all that were trained")
        for search in results.searches:
            accuracy = results.accuracy(task, in_words(Genotype.from_dict(search["found"])), 0)
            if search["task"] == task and search["seed"] == 0 and not np.isnan(accuracy):
                cost = million_multiply_adds(task, Genotype.from_dict(search["found"]))
                axes.plot([cost], [accuracy], "D", ms=7, label=search["variant"])
        axes.set_xlabel("multiply-adds of the blocks, millions", fontsize=8)
        axes.set_ylabel("accuracy trained alone", fontsize=8)
        axes.set_title(task, fontsize=9, color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7, frameon=False)
    save_png(figure, path)


def name_of(search: dict[str, Any]) -> str:
    """Return a search's task, variant and seed."""
    return f"{search['task']} {search['variant']}, seed {search['seed']}"


def main() -> None:
    """Print both tables; draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where results are kept")
    parser.add_argument("--png", type=Path, help="file for the picture of rankings")
    parser.add_argument("--costs", type=Path, help="file for the picture of accuracy against cost")
    options = parser.parse_args()
    results = Results(options.folder)
    print("\n".join([*results.rankings(), "", *results.contests()]))
    if options.png:
        results.draw(options.png)
    if options.costs:
        draw_costs(results, options.costs)


if __name__ == "__main__":
    main()
