"""Training steps and scoring of VQA and grounding, against the published way.

    python3 -m benchmarks.training

Size small, fp32, from arrays in memory: collation, forward and, in training, backward, clipping and Adam. Batches
here hold questions of about as many regions, as the samplers of `mmnas.data.samplers` deal them; those timed stand
for all of a window. A published batch costs the same whatever it holds, so that one stands for all.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from benchmarks.networks import networks, useful_work, vgd_sample, vqa_lengths, vqa_sample
from benchmarks.published import Sample, published_batch
from benchmarks.timing import Row, machine, markdown, matrix_rate, require_close, seconds
from mmnas.batch import Batch, collate
from mmnas.data.samplers import WINDOW
from mmnas.tasks.base import Task

TOKENS = 14  # of a published batch
SCORED = 20_000  # questions that scoring sorts, of which few batches are made


class Trainee:
    """A network and its optimiser."""

    def __init__(self, task: Task, network: nn.Module, fused: bool) -> None:
        self.task, self.network = task, network
        options = {"lr": 1e-5, "betas": (0.9, 0.98), "eps": 1e-9, "fused": fused}
        self.optimizer = torch.optim.Adam(network.parameters(), **options)

    def step(self, batch: Batch) -> None:
        """Take one optimiser step."""
        self.task.loss(self.network.train(), batch)["total"].backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def run(self, work: str, collate: Callable[[list[Sample]], Batch]) -> Callable[[list[list[Sample]]], None]:
        """Return a function that does `work`, "step" or "score", for every batch of a list, collation included."""

        def run(batches: list[list[Sample]]) -> None:
            for samples in batches:
                getattr(self, work)(collate(samples))

        return run

    @torch.inference_mode()
    def score(self, batch: Batch):
        """Run the network in evaluation mode."""
        return self.network.eval()(batch)


def sorted_batches(count: int, size: int, batches: int, by_tokens: bool, seed: int) -> list[list[Sample]]:
    """Return evenly spaced `batches` of the batches that `count` questions make when sorted by regions."""
    rng = np.random.default_rng(seed)
    regions, tokens = vqa_lengths(count, rng)
    order = np.lexsort((tokens, regions)) if by_tokens else np.argsort(regions, kind="stable")
    whole = order[: count - count % size].reshape(-1, size)
    chosen = whole[((np.arange(batches) + 0.5) * len(whole) / batches).astype(int)]
    return [[vqa_sample(regions[each], tokens[each], rng) for each in rows] for rows in chosen]


def compare(name: str, work: str, batches: list[list[Sample]], rounds: int, goal: float) -> Row:
    """Time all batches here and one the published way in turns; `work` is "step" or "score"."""
    task, *pair = networks(name)
    ours, published = (Trainee(task, network, fused) for network, fused in zip(pair, (True, False), strict=True))
    _require_same(ours, published, batches[0][:8])
    runs = ours.run(work, collate), published.run(work, lambda samples: published_batch(samples, TOKENS))
    useful = useful_work(published.network, [sample for batch in batches for sample in batch])
    size = len(batches[0])
    figures = []
    for number in range(rounds + 1):
        rate = matrix_rate()
        slow = seconds(runs[1], batches[number % len(batches) : number % len(batches) + 1])
        fast = seconds(runs[0], batches)
        figures.append((len(batches) * size / fast, size / slow, useful / fast / rate))
    here, there, shares = zip(*figures[1:], strict=True)  # the first round warms up
    scoring = work == "score"
    title = f"{name.upper()} {'scoring' if scoring else 'training step'}"
    return Row(title, "samples/s", here, there, goal, shares if scoring else (), 0.8 if scoring else None)


def _require_same(ours: Trainee, published: Trainee, samples: Sequence[Sample]) -> None:
    pair = ours.score(collate(samples)), published.score(published_batch(samples, TOKENS))
    for here, there in zip(*(each if isinstance(each, tuple) else (each,) for each in pair), strict=True):
        require_close(here, there[:, : here.shape[1]])


def rows(quick: bool = False) -> list[Row]:
    """Measure VQA training, VQA scoring, grounding training."""
    size, batches, rounds = (8, 2, 1) if quick else (64, 5, 3)
    rng = np.random.default_rng(0)
    training = sorted_batches(WINDOW * size, size, batches, by_tokens=False, seed=1)
    scoring = sorted_batches(SCORED, size, batches, by_tokens=True, seed=2)
    grounding = [[vgd_sample(rng) for _ in range(size)]]
    return [
        compare("vqa", "step", training, rounds, 7.0),
        compare("vqa", "score", scoring, rounds, 8.0),
        compare("vgd", "step", grounding, rounds, 4.0),
    ]


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(2)
    print(machine())
    print(markdown(rows()))


if __name__ == "__main__":
    main()
