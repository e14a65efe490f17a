"""Retrieval: recall@k, median and mean rank, of captions for an image and of images for a caption.

Ranks start at 1, and an image's is that of its best caption. Ties are broken against the model: whatever scores
as high as the right answer is ranked before it. Recalls are percent. Letters: I images, C captions.
"""

from collections.abc import Sequence

import numpy as np

from mmnas.errors import DataError

RECALLS = (1, 5, 10)
# The COCO 1K protocol averages its figures over this many consecutive parts of the 5K images.
FOLDS = 5

Figures = dict[str, dict[str, float]]


def retrieval_ranks(scores: np.ndarray, owners: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the ranks (I,) of images' best captions and (C,) of captions' images, from scores (I, C).

    `owners` (C,) ascend and name the image of each caption; without them, every image has as many in a row. Raises
    `DataError` for another shape, an image without captions, or a score that is not finite.
    """
    images, captions = scores.shape
    if owners is None and (not images or not captions or captions % images):
        raise DataError(f"{captions} captions for {images} images: each image needs as many as the others")
    owners = np.arange(captions) * images // captions if owners is None else owners
    firsts = np.searchsorted(owners, np.arange(images))
    if (np.diff(firsts, append=captions) < 1).any():
        raise DataError("an image has no captions: leave it out")
    if not np.isfinite(scores).all():
        raise DataError("a score is not finite: the checkpoint's weights or an image's features are damaged")
    own = scores[owners, np.arange(captions)]  # (C,)
    best = np.maximum.reduceat(own, firsts)  # (I,)
    ties = np.add.reduceat(own >= best[owners], firsts, dtype=np.int64)
    image_ranks = 1 + (scores >= best[:, None]).sum(axis=1) - ties
    return image_ranks, (scores >= own).sum(axis=0)


def retrieval_figures(scores: np.ndarray, owners: np.ndarray | None = None) -> Figures:
    """Return `r1`, `r5`, `r10`, `median_rank` and `mean_rank` of `image_to_text` and `text_to_image`."""
    directions = zip(("image_to_text", "text_to_image"), retrieval_ranks(scores, owners), strict=True)
    return {direction: _figures(ranks) for direction, ranks in directions}


def _figures(ranks: np.ndarray) -> dict[str, float]:
    """Return the figures of ranks; a median between two ranks is rounded down, as published."""
    recalls = {f"r{k}": 100 * float((ranks <= k).mean()) for k in RECALLS}
    return {**recalls, "median_rank": float(np.floor(np.median(ranks))), "mean_rank": float(ranks.mean())}


def folds(images: int, count: int) -> list[slice]:
    """Cut `images` into `count` consecutive parts, equal but for one. Raises DataError for too few images."""
    if images < count:
        raise DataError(f"{images} images do not make {count} folds: score them by a protocol without folds")
    ends = [images * part // count for part in range(count + 1)]
    return [slice(start, end) for start, end in zip(ends, ends[1:], strict=False)]


def mean_figures(parts: Sequence[Figures]) -> Figures:
    """Return the mean of each figure over `parts`."""
    return {
        direction: {name: float(np.mean([part[direction][name] for part in parts])) for name in figures}
        for direction, figures in parts[0].items()
    }


def rsum(figures: Figures) -> float:
    """Return the sum of the six recalls, at most 600."""
    return sum(figures[direction][f"r{k}"] for direction in figures for k in RECALLS)
