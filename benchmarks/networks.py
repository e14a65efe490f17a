"""Networks and samples of the benchmarks: this project's and the published one of the same weights, random data."""

import copy
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.published import (
    PlainFusionHead,
    PlainGroundingHead,
    PublishedNetwork,
    Sample,
    published_batch,
)
from benchmarks.timing import matrix_work
from mmnas.batch import Batch, collate
from mmnas.config import load_config
from mmnas.genotype import read_genotype
from mmnas.models.cpu import use_cpu_kernels
from mmnas.models.network import MMNasNet
from mmnas.tasks import task_named
from mmnas.tasks.base import Task
from mmnas.tasks.grounding_loss import grounding_targets

WORDS, ANSWERS = 20_000, 3129


def networks(name: str) -> tuple[Task, nn.Module, nn.Module]:
    """Return a task, its small network with random weights, and the published network with the same ones."""
    task, ours = plain_network(name)
    genotype = read_genotype(f"train_{name}")
    head = PlainGroundingHead() if name == "vgd" else PlainFusionHead(ANSWERS if name == "vqa" else 1)
    published = PublishedNetwork(genotype, WORDS, head)
    published.load_state_dict(ours.state_dict())
    use_cpu_kernels(ours)
    return task, ours, published


def plain_network(name: str, size: str = "small", **overrides: Any) -> tuple[Task, MMNasNet]:
    """Return a task, with `overrides` of its configuration, and its network of plain modules, random weights."""
    kind = task_named(name)
    task = kind(kind.settle(load_config(name, size, split="train", version="benchmark", overrides=overrides)))
    task.vocabularies = {"tokens": [str(word) for word in range(WORDS)], "answers": [""] * ANSWERS}
    torch.manual_seed(0)
    return task, task.build_model(read_genotype(f"train_{name}"), pretrained_words=False)


def random_image(count: int, rng: np.random.Generator) -> Sample:
    """Return `count` regions of an image of 650 x 650."""
    corners = rng.uniform(0, 400, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(20, 200, (count, 2))], axis=1).astype(np.float32)
    features = rng.random((count, 2048), dtype=np.float32)
    return {"features": features, "boxes": boxes, "image_sizes": np.array([650, 650], np.float32)}


def vqa_lengths(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return regions, 10 to 100 (mean 37), and tokens, 3 to 14 (mean 7), of so many questions."""
    regions = 10 + np.round(90 * rng.beta(1.2, 2.8, count)).astype(int)
    return regions, np.clip(np.round(rng.normal(7, 2.2, count)), 3, 14).astype(int)


def vqa_sample(regions: int, tokens: int, rng: np.random.Generator) -> Sample:
    """Return a question of so many tokens about so many regions, with three scored answers."""
    scores = np.zeros(ANSWERS, np.float32)
    scores[rng.choice(ANSWERS, 3, replace=False)] = (0.3, 0.6, 1)
    words = rng.integers(3, WORDS, tokens)
    return {**random_image(regions, rng), "tokens": words, "answer_scores": scores}


def matching_batch(size: int, rng: np.random.Generator) -> Batch:
    """Return a training batch of so many captions, 5 to 25 tokens, and images of 36 regions."""
    samples = [
        {**random_image(36, rng), "tokens": rng.integers(3, WORDS, rng.integers(5, 26))} for _ in range(size)
    ]
    rows = torch.arange(size)
    pairs = torch.stack([rows, rows.roll(1)], dim=1)  # each with itself and, as a negative, the one before it
    return {**collate(samples), "index": rows, "image_rows": pairs, "caption_rows": pairs}


def vgd_sample(rng: np.random.Generator) -> Sample:
    """Return an expression of 1 to 14 tokens (mean 3.6) that means one of 100 regions, with its targets."""
    image = random_image(100, rng)
    targets = grounding_targets(image["boxes"], image["boxes"][rng.integers(100)], "kld")
    return {**image, **targets, "tokens": rng.integers(3, WORDS, min(14, 1 + rng.poisson(2.6)))}


def useful_work(published: nn.Module, samples: Sequence[Sample]) -> int:
    """Return the floating-point operations of one forward of each sample alone, without any padding."""
    network = copy.deepcopy(published).to("meta").eval()

    @functools.cache
    def of_lengths(regions: int, tokens: int) -> int:
        sample = {"features": np.zeros((regions, 2048), np.float32), "boxes": np.ones((regions, 4), np.float32)}
        sample["tokens"] = np.ones(tokens, np.int64)
        batch = published_batch([sample], tokens, regions)
        return matrix_work(network, {name: tensor.to("meta") for name, tensor in batch.items()})

    return sum(of_lengths(len(sample["boxes"]), len(sample["tokens"])) for sample in samples)
