"""How sure a mean over samples is, and whether two models differ: bootstrap and permutation, image by image.

Samples of one image are not independent, so images are drawn, with all their samples (Efron and Tibshirani, "An
Introduction to the Bootstrap", 1993, chapters 6, 13 and 15). Letters: N samples, I images, F figures, R rounds.
"""

from collections.abc import Iterable, Sequence

import numpy as np

LEVEL = 95
"""Percent of intervals that hold the true mean."""
BLOCK = 100
"""Rounds of the bootstrap that are computed at a time."""


def bootstrap(columns: Iterable[np.ndarray], images: Sequence[int], rounds: int = 2000) -> np.ndarray:
    """Return the means (R, F) of columns (N,) over images that are drawn with replacement.

    NaN marks samples that a column does not count. All columns and all calls draw the same images.
    """
    index = np.unique(images, return_inverse=True)[1]
    weights = [(np.nan_to_num(column), ~np.isnan(column)) for column in columns]
    sums, counts = np.array([[np.bincount(index, part) for part in pair] for pair in weights]).transpose(1, 2, 0)
    rng, means = np.random.default_rng(0), []
    for _ in range(rounds // BLOCK):
        drawn = rng.integers(len(sums), size=(BLOCK, len(sums)))
        times = np.stack([np.bincount(row, minlength=len(sums)) for row in drawn]).astype(float)  # (BLOCK, I)
        totals, numbers = times @ sums, times @ counts
        means.append(np.divide(totals, numbers, out=np.full_like(totals, np.nan), where=numbers > 0))
    return np.concatenate(means)


def interval(means: np.ndarray) -> tuple[float, float]:
    """Return the limits of the middle `LEVEL` percent of resampled means (R,)."""
    low, high = np.nanpercentile(means, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)


def p_value(differences: np.ndarray, images: Sequence[int], rounds: int = 10_000) -> float:
    """Return how often chance gives as large a mean: the sign of each image's differences (N,) is drawn."""
    sums = np.bincount(np.unique(images, return_inverse=True)[1], differences)
    sums = sums[sums != 0]
    rng, extreme, least = np.random.default_rng(0), 0, abs(sums.sum()) - 1e-9 * np.abs(sums).sum()
    for _ in range(rounds):
        extreme += abs(2 * sums[rng.random(len(sums), np.float32) < 0.5].sum() - sums.sum()) >= least
    return float((extreme + 1) / (rounds + 1))
