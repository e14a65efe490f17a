"""Scoring every caption against every image, and finding hard negatives: the block scorer against plain forwards.

    python3 -m benchmarks.retrieval

The small network of the published genotype in fp32 on two cores, random weights; images of 36 regions, captions
of 5 to 25 tokens. The forms are timed in turns, so that whatever else the machine does meets both. The published
way runs one plain forward per pair with captions padded to 50 tokens. Of an epoch, shares are run and their times
scaled: both ways are linear in the candidates, the published one also in its steps.
"""

import os
import platform
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.utils.flop_counter import FlopCounterMode

from mmnas.config import Config
from mmnas.configs import load_config
from mmnas.data.batching import collate
from mmnas.data.features import Regions
from mmnas.data.matching import ImageDataset, PairDataset
from mmnas.data.ragged import Ragged
from mmnas.engine.distributed import Group
from mmnas.engine.tools import tools_of
from mmnas.genotype import Genotype, read_genotype
from mmnas.models.pair_scorer import PairScorer
from mmnas.tasks.hard_negatives import hard_negatives, token_groups
from mmnas.tasks.itm import ITMTask, matching_loss

IMAGES, REGIONS, WORDS, PADDED = 100, 36, 1000, 50
ROUNDS, ROUND_IMAGES, ROUND_CAPTIONS, PLAIN_PAIRS = 3, 20, 40, 40
CANDIDATES, TIMED_CANDIDATES, BEST, BATCH = 64, 8, 5, 64
PLAIN_STEPS = 1  # of eight, each of three forwards


class RandomImages:
    """Region features of so many images, made on demand and always the same."""

    def __getitem__(self, image_id: int) -> Regions:
        rng = np.random.default_rng(image_id)
        corners = rng.uniform(0, 400, (REGIONS, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(20, 200, (REGIONS, 2))], axis=1)
        features = rng.random((REGIONS, 2048), dtype=np.float32)
        return Regions(features, boxes.astype(np.float32), np.array([650, 650], np.float32))


def caption_lengths(count: int, rng: np.random.Generator) -> np.ndarray:
    """5 to 25 tokens, about 12 in the mean."""
    return np.clip(rng.normal(11.6, 4.2, count).round(), 5, 25).astype(int)


def make_network() -> tuple[nn.Module, Config]:
    """The published small network with random weights, and its configuration."""
    config = ITMTask.settle(load_config("itm", "small", split="train", version="benchmark"))
    task = ITMTask(config)
    task.vocabularies = {"tokens": [str(word) for word in range(WORDS)]}
    torch.manual_seed(0)
    genotype: Genotype = read_genotype("logs/ckpts/arch/train_itm.json")
    return task.build_model(genotype, pretrained_words=False), config


def padded(tokens: Ragged, captions: np.ndarray) -> dict[str, Tensor]:
    """Captions padded to 50 tokens, as published."""
    ids = np.zeros((len(captions), PADDED), np.int64)
    for row, caption in zip(ids, captions, strict=True):
        row[: len(tokens[int(caption)])] = tokens[int(caption)]
    return {"tokens": torch.from_numpy(ids), "token_mask": torch.from_numpy(ids > 0)}


def chosen_images(images: ImageDataset, places: np.ndarray) -> dict[str, Tensor]:
    """The image side of a batch."""
    return collate([images[int(place)] for place in places])


def plain(network: nn.Module, data: PairDataset, images: np.ndarray, captions: np.ndarray) -> Tensor:
    """Logits (P,) of pairs by one plain forward of each."""
    return network({**chosen_images(data.images, images), **padded(data.tokens, captions)})[:, 0]


def block(network: nn.Module, data: PairDataset, images: np.ndarray, captions: np.ndarray) -> Tensor:
    """Logits (I, C) of all pairs by the block scorer, from features and token ids on."""
    scorer = PairScorer(network)
    states = scorer.images(chosen_images(data.images, images))
    scores = torch.empty(len(images), len(captions))
    for places, tokens in token_groups(scorer, data.tokens, captions, torch.device("cpu")):
        scores[:, places] = scorer.matrix(states, scorer.captions(tokens))
    return scores


def seconds(function, *arguments) -> tuple[float, object]:
    """Run once; return the time and the result."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def matrix_rate() -> float:
    """Floating-point operations per second of torch.mm of 2048 x 2048."""
    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
    taken, _ = seconds(lambda: [torch.mm(a, b) for _ in range(5)])
    return 5 * 2 * 2048**3 / taken


def operations_per_pair(network: nn.Module, data: PairDataset, images: np.ndarray, captions: np.ndarray) -> float:
    """Floating-point operations of the block scorer, by torch's counter, over its pairs."""
    with FlopCounterMode(display=False) as counter:
        block(network, data, images, captions)
    return counter.get_total_flops() / (len(images) * len(captions))


@torch.inference_mode()
def compare_scoring(network: nn.Module, data: PairDataset) -> None:
    """Time both forms in turns; print pairs per second, their ratio and the share of the matrix rate."""
    images, captions = np.arange(ROUND_IMAGES), np.arange(ROUND_CAPTIONS)
    block(network, data, images[:4], captions[:8])  # warm-up
    pairs = operations_per_pair(network, data, images, captions)
    rows = []
    for _ in range(ROUNDS):
        rate = matrix_rate()
        taken, scores = seconds(block, network, data, images, captions)
        some = np.arange(PLAIN_PAIRS) % ROUND_IMAGES, np.arange(PLAIN_PAIRS) % ROUND_CAPTIONS
        plain_taken, logits = seconds(plain, network, data, *some)
        apart = float((scores[some] - logits).abs().max())
        fast, slow = scores.numel() / taken, PLAIN_PAIRS / plain_taken
        rows.append((fast, slow, fast / slow, 100 * fast * pairs / rate, rate / 1e9, apart))
    print(f"{'':12}{'block':>9}{'plain':>9}{'ratio':>8}{'of mm':>8}{'mm':>9}{'apart':>10}")
    print(f"{'':12}{'pairs/s':>9}{'pairs/s':>9}{'':>8}{'%':>8}{'GFLOP/s':>9}{'logits':>10}")
    for number, row in enumerate([*rows, np.median(rows, axis=0)]):
        label = "median" if number == len(rows) else f"round {number + 1}"
        print(f"{label:12}{row[0]:>9.1f}{row[1]:>9.1f}{row[2]:>8.2f}{row[3]:>8.1f}{row[4]:>9.1f}{row[5]:>10.1e}")


def train_step(network: nn.Module, optimizer: Adam, task: ITMTask, data: PairDataset, captions: np.ndarray) -> None:
    """One step as this project takes it."""
    batch = data.collate([data[int(caption)] for caption in captions])
    task.loss(network, batch)["total"].backward()
    optimizer.step()
    optimizer.zero_grad()


def plain_step(network: nn.Module, optimizer: Adam, data: PairDataset, captions: np.ndarray) -> None:
    """One step as published: three forwards."""
    negatives = data.negatives[captions].numpy()
    forms = ((captions // 5, captions), (captions // 5, negatives[:, 0]), (negatives[:, 1], captions))
    matching_loss(*(plain(network, data, *form) for form in forms), "bce").backward()
    optimizer.step()
    optimizer.zero_grad()


def mine(network: nn.Module, data: PairDataset, candidates: int) -> np.ndarray:
    """Draw the negatives of the first epoch."""
    with torch.inference_mode():
        return hard_negatives(PairScorer(network.eval()), data, tools_of(Group(), 0), 0, 0, candidates, BEST)


def compare_epochs(network: nn.Module, config: Config, data: PairDataset) -> None:
    """Time an epoch of mining and training, and the share of the published one; print both and their ratio."""
    optimizer, task, captions = Adam(network.parameters(), lr=0.0), ITMTask(config), len(data)
    steps = np.array_split(np.random.default_rng(0).permutation(captions), -(-captions // BATCH))
    mining, negatives = seconds(mine, network, data, TIMED_CANDIDATES)
    mining *= CANDIDATES / TIMED_CANDIDATES
    data.negatives.copy_(torch.from_numpy(negatives))
    network.train()
    training, _ = seconds(lambda: [train_step(network, optimizer, task, data, step) for step in steps])
    some = steps[:PLAIN_STEPS]
    plain_training, _ = seconds(lambda: [plain_step(network, optimizer, data, step) for step in some])
    network.eval()
    pairs = np.arange(PLAIN_PAIRS)
    with torch.inference_mode():
        plain_scoring, _ = seconds(plain, network, data, pairs % IMAGES, pairs)
    plain_mining = plain_scoring / PLAIN_PAIRS * CANDIDATES * (IMAGES + captions)
    plain_training *= len(steps) / PLAIN_STEPS
    print(f"\nepoch of {IMAGES} images, {captions} captions, {CANDIDATES} candidates")
    print(f"{'':12}{'mining s':>10}{'training s':>12}{'epoch s':>10}")
    for label, parts in (("block", (mining, training)), ("published", (plain_mining, plain_training))):
        print(f"{label:12}{parts[0]:>10.0f}{parts[1]:>12.0f}{sum(parts):>10.0f}")
    same = bool((mine(network, data, 1) == mine(network, data, 1)).all())
    print(f"ratio {(plain_mining + plain_training) / (mining + training):.2f}; the same negatives twice: {same}")


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(2)
    rng = np.random.default_rng(0)
    lengths = caption_lengths(5 * IMAGES, rng)
    tokens = Ragged((rng.integers(3, WORDS, length) for length in lengths), np.int32)
    data = PairDataset(ImageDataset(np.arange(IMAGES), RandomImages(), REGIONS), tokens)
    network, config = make_network()
    print(f"{platform.machine()}, {os.cpu_count()} cores, 2 threads, torch {torch.__version__}")
    print(f"captions of {lengths.min()} to {lengths.max()} tokens, mean {lengths.mean():.1f}")
    compare_scoring(network.eval(), data)
    compare_epochs(network, config, data)


if __name__ == "__main__":
    main()
