"""Hard negatives: the random candidates that the model scores highest.

Candidates are drawn so that every image is read once or twice: the images are put in a random order, and the
captions of each image are tried with the images that follow it in that order, which are a random choice of the
others. An image's candidates are a random choice of the captions that were tried with it, of each image five:
where it has more, others in every epoch; where it has fewer, some of them twice.

Letters: I images, C captions, W candidates of a caption, B best of them.
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


def random_negatives(owners: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return for each caption, whose image `owners` (C,) names, a caption and an image not of its image, (C, 2)."""
    rng = np.random.default_rng((seed, epoch, 1))
    firsts, counts = _groups(owners)
    others = (owners[:, None] + rng.integers(1, len(firsts), size=(len(owners), 2))) % len(firsts)  # (C, 2) images
    others[:, 0] = firsts[others[:, 0]] + rng.integers(counts[others[:, 0]])
    return others


def hard_negatives(
    scorer: PairScorer, data: PairDataset, tools: Tools, seed: int, epoch: int, candidates: int, best: int
) -> np.ndarray:
    """Return for each caption one of its image's `best` captions and one of its own best images, (C, 2).

    All processes together score `candidates` images per caption, or all others where there are fewer. The
    same model, seed and epoch give the same negatives in any number of processes.
    """
    owners, order = data.owners, np.random.default_rng((seed, epoch, 2)).permutation(len(data.images))
    width = min(candidates, len(order) - 1)
    scores = _window_scores(scorer, data, tools, order, width, epoch)
    firsts, counts = _groups(owners)
    tried = firsts[:, None] + (CAPTIONS_PER_IMAGE * epoch + np.arange(CAPTIONS_PER_IMAGE)) % counts[:, None]
    captions = best_captions(scores, tried, order, candidates, best, np.random.default_rng((seed, epoch, 3)))
    found = best_images(scores, owners, order, best)
    rng = np.random.default_rng((seed, epoch, 4))
    caption = captions[owners, rng.integers(captions.shape[1], size=len(owners))]
    image = found[np.arange(len(owners)), rng.integers(found.shape[1], size=len(owners))]
    return np.stack([caption, image], axis=1)


def _groups(owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first caption and the number of captions of each image, (I,) both."""
    _, firsts, counts = np.unique(owners, return_index=True, return_counts=True)
    return firsts, counts


def best_images(scores: np.ndarray, owners: np.ndarray, order: np.ndarray, best: int) -> np.ndarray:
    """Return the best images (C, B) of captions with scores (C, W), W images after their own in `order` (I,)."""
    places = np.argsort(order)[owners]
    found: np.ndarray = order[(places[:, None] + 1 + _highest(scores, best)) % len(order)]
    return found


def best_captions(
    scores: np.ndarray, tried: np.ndarray, order: np.ndarray, candidates: int, best: int, rng: np.random.Generator
) -> np.ndarray:
    """Return each image's best captions (I, B) out of `candidates` random ones of those tried with it.

    `tried` (I, 5) are captions of each image; scores (C, W) are as those of `best_images`.
    """
    images, width = len(order), scores.shape[1]
    before = order[(np.arange(images)[:, None] - 1 - np.arange(width)) % images]  # (I, W): in the order of `order`
    captions = tried[before]  # (I, W, 5)
    found = scores[captions, np.arange(width)[:, None]].reshape(images, -1)
    captions = captions.reshape(images, -1)
    kept = np.argsort(rng.random(found.shape, dtype=np.float32), axis=1)[:, :candidates]
    found, captions = (np.take_along_axis(values, kept, axis=1) for values in (found, captions))
    by_image = np.empty((images, min(best, found.shape[1])), np.int64)
    by_image[order] = np.take_along_axis(captions, _highest(found, best), axis=1)
    return by_image


def _highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the `count` highest scores along the last axis, the first among equals."""
    return np.argsort(-scores, axis=-1, kind="stable")[..., :count]


def _window_scores(
    scorer: PairScorer, data: PairDataset, tools: Tools, order: np.ndarray, width: int, epoch: int
) -> np.ndarray:
    """Return scores (C, W): of each caption with the images that follow its own in `order`."""
    images = len(order)
    firsts = range(tools.rank * UNIT, images, UNIT * tools.processes)
    batches = [order[(first + np.arange(min(UNIT + width, images))) % images].tolist() for first in firsts]
    title = f"hard negatives for epoch {epoch + 1}"
    parts = []
    begins, counts = _groups(data.owners)
    for first, batch in zip(firsts, tools.load(data.images, batches, title), strict=True):
        own = order[first : first + UNIT]
        captions = np.concatenate([np.arange(begins[image], begins[image] + counts[image]) for image in own])
        rows = np.arange(len(own)).repeat(counts[own])
        parts.append((captions, _unit_scores(scorer, scorer.images(batch), data, captions, rows, width)))
    whole = np.empty((len(data.owners), width), np.float32)
    for captions, part in tools.gather(parts):
        whole[captions] = part
    return whole


def _unit_scores(
    scorer: PairScorer, states: ImageStates, data: PairDataset, captions: np.ndarray, own: np.ndarray, width: int
) -> np.ndarray:
    """Return scores (captions, W) of captions, of the images at the rows `own`, with the images that follow."""
    scores = np.empty((len(captions), width), np.float32)
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
