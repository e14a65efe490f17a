"""Matching: scoring every caption against every image, and an epoch of finding hard negatives and training.

    python3 -m benchmarks.retrieval

The small network of the published genotype in fp32, random weights; images of 36 regions, captions of 5 to 25
tokens. Both ways are timed in turns, so that whatever else the machine does meets both. The published way runs one
forward per pair with captions padded to 50 tokens. Of an epoch, shares are run and their times scaled: both ways
are linear in the candidates and in the steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam

from benchmarks.networks import WORDS, networks, random_image
from benchmarks.published import published_batch
from benchmarks.timing import Row, machine, markdown, matrix_rate, matrix_work, require_close, seconds
from mmnas.batch import collate
from mmnas.data.features import Regions
from mmnas.data.matching import ImageDataset, PairDataset
from mmnas.data.ragged import Ragged
from mmnas.engine.distributed import Group
from mmnas.engine.evaluator import tools_of
from mmnas.models.pair_scorer import PairScorer
from mmnas.tasks.base import Task
from mmnas.tasks.hard_negatives import hard_negatives, token_groups
from mmnas.tasks.matching_loss import matching_loss

REGIONS, PADDED = 36, 50
CANDIDATES, BEST, BATCH = 64, 5, 64


@dataclass(frozen=True)
class Amounts:
    """How much of the work is timed: per round, images and captions scored, and pairs the published way; of an
    epoch over a split of so many images, candidates, steps, and steps the published way.
    """

    rounds: int = 3
    split: int = 100
    images: int = 20
    captions: int = 40
    pairs: int = 40
    candidates: int = 8
    steps: int = 3
    published_steps: int = 1
    batch: int = BATCH


QUICK = Amounts(rounds=1, split=20, images=6, captions=10, pairs=8, candidates=1, steps=1, batch=8)


class RandomImages:
    """Region features of so many images, made on demand and always the same."""

    def __getitem__(self, image_id: int) -> Regions:
        image = random_image(REGIONS, np.random.default_rng(image_id))
        return Regions(image["features"], image["boxes"], image["image_sizes"])


def pair_data(images: int) -> PairDataset:
    """Five captions for each image: 5 to 25 tokens, about 12 in the mean."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.normal(11.6, 4.2, 5 * images).round(), 5, 25).astype(int)
    tokens = Ragged((rng.integers(3, WORDS, length) for length in lengths), np.int32)
    return PairDataset(ImageDataset(np.arange(images), RandomImages(), REGIONS), tokens, np.arange(5 * images) // 5)


def published_logits(network: nn.Module, data: PairDataset, images: np.ndarray, captions: np.ndarray) -> Tensor:
    """Logits (P,) of pairs by one published forward of each."""
    samples = []
    for image, caption in zip(images, captions, strict=True):
        samples.append({**data.images[int(image)], "tokens": data.tokens[int(caption)].astype(np.int64)})
    return network(published_batch(samples, PADDED, REGIONS))[:, 0]


def block_logits(network: nn.Module, data: PairDataset, images: np.ndarray, captions: np.ndarray) -> Tensor:
    """Logits (I, C) of all pairs by the block scorer, from features and token ids on."""
    scorer = PairScorer(network)
    states = scorer.images(collate([data.images[int(place)] for place in images]))
    scores = torch.empty(len(images), len(captions))
    for places, tokens in token_groups(scorer, data.tokens, captions, torch.device("cpu")):
        rows = torch.arange(len(states)).expand(len(places), -1)
        scores[:, places] = scorer.score(states, rows, scorer.captions(tokens)).T
    return scores


@torch.inference_mode()
def compare_scoring(ours: nn.Module, published: nn.Module, data: PairDataset, amounts: Amounts) -> Row:
    """Time both forms in turns: pairs per second."""
    images, captions = np.arange(amounts.images), np.arange(amounts.captions)
    some = np.arange(amounts.pairs) % len(images), np.arange(amounts.pairs) % len(captions)
    require_close(block_logits(ours, data, images, captions)[some], published_logits(published, data, *some))
    pairs = len(images) * len(captions)
    work = matrix_work(block_logits, ours, data, images, captions) / pairs
    figures = []
    for _ in range(amounts.rounds):
        rate = matrix_rate()
        here = pairs / seconds(block_logits, ours, data, images, captions)
        there = amounts.pairs / seconds(published_logits, published, data, *some)
        figures.append((here, there, here * work / rate))
    here, there, shares = zip(*figures, strict=True)
    return Row("ITM scoring", "pairs/s", here, there, 12.0, shares, 0.6)


class Steps:
    """A network and its optimiser, which take training steps of a loss."""

    def __init__(self, network: nn.Module, fused: bool, loss: Callable[[nn.Module, np.ndarray], Tensor]) -> None:
        self.network, self.loss = network, loss
        self.optimizer = Adam(network.parameters(), lr=0.0, fused=fused)

    def take(self, steps: np.ndarray) -> None:
        """Take one step for every row of captions."""
        self.network.train()
        for captions in steps:
            self.loss(self.network, captions).backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)


def loss_here(task: Task, data: PairDataset, network: nn.Module, captions: np.ndarray) -> Tensor:
    """Loss of a step as this project takes it: one forward of distinct images and captions."""
    return task.loss(network, data.collate([data[int(caption)] for caption in captions]))["total"]


def published_loss(data: PairDataset, network: nn.Module, captions: np.ndarray) -> Tensor:
    """Loss of a step as published: three forwards."""
    negatives = data.negatives[captions].numpy()
    forms = ((captions // 5, captions), (captions // 5, negatives[:, 0]), (negatives[:, 1], captions))
    return matching_loss(*(published_logits(network, data, *form) for form in forms), "bce")


@torch.inference_mode()
def mine(network: nn.Module, data: PairDataset, candidates: int) -> None:
    """Draw the negatives of the first epoch."""
    drawn = hard_negatives(PairScorer(network.eval()), data, tools_of(Group(), 0), 0, 0, candidates, BEST)
    data.negatives.copy_(torch.from_numpy(drawn))


@torch.inference_mode()
def score_pairs(network: nn.Module, data: PairDataset, count: int) -> None:
    """Score so many pairs the published way."""
    pairs = np.arange(count)
    published_logits(network.eval(), data, pairs // 5, pairs)


def compare_epochs(task: Task, ours: nn.Module, published: nn.Module, data: PairDataset, amounts: Amounts) -> Row:
    """Time shares of an epoch of mining and training in turns: epochs per hour."""
    here = Steps(ours, True, partial(loss_here, task, data))
    there = Steps(published, False, partial(published_loss, data))
    captions = np.random.default_rng(0).permutation(len(data))[: amounts.steps * amounts.batch]
    steps, some = captions.reshape(amounts.steps, -1), amounts.published_steps
    scored, epoch = CANDIDATES * (len(data.images) + len(data)), len(data) / amounts.batch
    figures = []
    for _ in range(amounts.rounds):
        taken = seconds(mine, ours, data, amounts.candidates) * CANDIDATES / amounts.candidates
        taken += seconds(here.take, steps) * epoch / len(steps)
        published_taken = seconds(score_pairs, published, data, amounts.pairs) * scored / amounts.pairs
        published_taken += seconds(there.take, steps[:some]) * epoch / some
        figures.append((3600 / taken, 3600 / published_taken))
    return Row("ITM epoch, mining and training", "epochs/h", *zip(*figures, strict=True), 4.0)


def rows(quick: bool = False) -> list[Row]:
    """Measure scoring, and an epoch with 64 candidates over 100 images and their 500 captions."""
    amounts = QUICK if quick else Amounts()
    data = pair_data(amounts.split)
    task, ours, published = networks("itm")
    scoring = compare_scoring(ours.eval(), published.eval(), data, amounts)
    return [scoring, compare_epochs(task, ours, published, data, amounts)]


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(2)
    print(machine())
    print(markdown(rows()))


if __name__ == "__main__":
    main()
