"""Hard negatives: the random candidates that the model scores highest.

Candidates are drawn so that every image is read once or twice: the images are put in a random order, and the
captions of each image are tried with the images that follow it in that order, which are a random choice of the
others. An image's candidates are a random choice of the captions that were tried with it.

Letters: I images, C = 5 I captions, W candidates of a caption, B best of them.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mmnas.data.matching import PairDataset, stack_tokens
from mmnas.data.ragged import Ragged
from mmnas.data.scan_precomp import CAPTIONS_PER_IMAGE
from mmnas.models.pair_scorer import ImageStates, PairScorer
from mmnas.tasks.base import Tools

# Images whose captions are scored together, by one process. Independent of the number of processes, so that
# the scores are, too.
UNIT = 192


def random_negatives(images: int, seed: int, epoch: int) -> np.ndarray:
    """Return for each caption a caption and an image that are not of its image, (C, 2)."""
    rng = np.random.default_rng((seed, epoch, 1))
    own = np.arange(images * CAPTIONS_PER_IMAGE) // CAPTIONS_PER_IMAGE
    others = (own[:, None] + rng.integers(1, images, size=(len(own), 2))) % images  # (C, 2) images
    others[:, 0] = others[:, 0] * CAPTIONS_PER_IMAGE + rng.integers(CAPTIONS_PER_IMAGE, size=len(own))
    return others


def hard_negatives(
    scorer: PairScorer, data: PairDataset, tools: Tools, seed: int, epoch: int, candidates: int, best: int
) -> np.ndarray:
    """Return for each caption one of its image's `best` captions and one of its own best images, (C, 2).

    All processes together score `candidates` images per caption, or all others where there are fewer. The
    same model, seed and epoch give the same negatives in any number of processes.
    """
    images = len(data.images)
    order = np.random.default_rng((seed, epoch, 2)).permutation(images)
    width = min(candidates, images - 1)
    scores = _window_scores(scorer, data, tools, order, width, epoch)
    captions = best_captions(scores, order, candidates, best, np.random.default_rng((seed, epoch, 3)))
    found = best_images(scores, order, best)
    rng = np.random.default_rng((seed, epoch, 4))
    every = np.arange(len(found))
    caption = captions[every // CAPTIONS_PER_IMAGE, rng.integers(captions.shape[1], size=len(found))]
    image = found[every, rng.integers(found.shape[1], size=len(found))]
    return np.stack([caption, image], axis=1)


def best_images(scores: np.ndarray, order: np.ndarray, best: int) -> np.ndarray:
    """Return each caption's best images (C, B) from scores (I, 5, W) in the order of `order` (I,)."""
    images, each, _ = scores.shape
    offsets = _highest(scores, best)  # (I, 5, B)
    found = order[(np.arange(images)[:, None, None] + 1 + offsets) % images]
    by_image = np.empty_like(found)
    by_image[order] = found
    return by_image.reshape(images * each, -1)


def best_captions(
    scores: np.ndarray, order: np.ndarray, candidates: int, best: int, rng: np.random.Generator
) -> np.ndarray:
    """Return each image's best captions (I, B) out of `candidates` random ones of those tried with it."""
    images, each, width = scores.shape
    indices = (np.arange(images)[:, None] - 1 - np.arange(width)) % images  # (I, W): whose captions were tried
    tried: np.ndarray = scores[indices, :, np.arange(width)].reshape(images, -1)  # (I, W * 5)
    captions: np.ndarray = (order[indices][..., None] * each + np.arange(each)).reshape(images, -1)
    kept = np.argsort(rng.random(tried.shape, dtype=np.float32), axis=1)[:, :candidates]
    tried, captions = (np.take_along_axis(values, kept, axis=1) for values in (tried, captions))
    by_image = np.empty((images, min(best, tried.shape[1])), np.int64)
    by_image[order] = np.take_along_axis(captions, _highest(tried, best), axis=1)
    return by_image


def _highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the `count` highest scores along the last axis, the first among equals."""
    return np.argsort(-scores, axis=-1, kind="stable")[..., :count]


def _window_scores(
    scorer: PairScorer, data: PairDataset, tools: Tools, order: np.ndarray, width: int, epoch: int
) -> np.ndarray:
    """Return scores (I, 5, W): the captions of each image of `order` with the images that follow it there."""
    images = len(order)
    firsts = range(tools.rank * UNIT, images, UNIT * tools.processes)
    batches = [order[(first + np.arange(min(UNIT + width, images))) % images].tolist() for first in firsts]
    title = f"hard negatives for epoch {epoch + 1}"
    parts = []
    for first, batch in zip(firsts, tools.load(data.images, batches, title), strict=True):
        own = order[first : first + UNIT]
        captions = (own[:, None] * CAPTIONS_PER_IMAGE + np.arange(CAPTIONS_PER_IMAGE)).ravel()
        parts.append((first, _unit_scores(scorer, scorer.images(batch), data, captions, width)))
    whole = np.empty((images, CAPTIONS_PER_IMAGE, width), np.float32)
    for first, part in tools.gather(parts):
        whole[first : first + UNIT] = part.reshape(-1, CAPTIONS_PER_IMAGE, width)
    return whole


def _unit_scores(
    scorer: PairScorer, states: ImageStates, data: PairDataset, captions: np.ndarray, width: int
) -> np.ndarray:
    """Return scores (captions, W) of captions, five for each of the first images, with the images that follow."""
    scores = np.empty((len(captions), width), np.float32)
    own = np.arange(len(captions)) // CAPTIONS_PER_IMAGE
    for indices, tokens in token_groups(scorer, data.tokens, captions, states.regions.device):
        rows = torch.from_numpy((own[indices, None] + 1 + np.arange(width)) % len(states)).to(tokens.device)
        scores[indices] = scorer.score(states, rows, scorer.captions(tokens)).cpu().numpy()
    return scores


def token_groups(
    scorer: PairScorer, tokens: Ragged, captions: np.ndarray, device: torch.device
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield indices in `captions` whose texts are equally long, and their token ids (indices, T)."""
    lengths = np.array([len(tokens[int(caption)]) for caption in captions])
    for indices in scorer.groups(lengths):
        yield indices, stack_tokens(tokens, captions[indices], device)
