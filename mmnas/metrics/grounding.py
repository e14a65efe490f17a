"""Grounding accuracy: an expression counts when its box meets the reference with an IoU of at least 0.5.

IoU in inclusive pixels (`mmnas.boxes`). All figures are percent, unrounded. Letters: E expressions, K regions.
"""

import numpy as np
from numpy.typing import ArrayLike

from mmnas.errors import DataError

# The lowest IoU at which a box counts as the reference, in scoring and in the targets.
CORRECT_IOU = 0.5


def proposal_quality(ious: ArrayLike, valid: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the best IoU of the valid regions (E,), and the fraction of valid regions that match (E,).

    `ious` (E, K) are those of the regions, before regression, with the reference; `valid` (E, K) is bool.
    """
    valid = np.asarray(valid, np.bool_)
    ious = np.where(valid, np.asarray(ious, np.float64), 0)
    matching = (ious >= CORRECT_IOU).sum(axis=1)
    return ious.max(axis=1, initial=0), matching / np.maximum(valid.sum(axis=1), 1)


def grounding_accuracy(ious: ArrayLike, best_ious: ArrayLike, matching: ArrayLike) -> dict[str, float]:
    """Return `accuracy`, `oracle` and `random_region` of expressions, each input (E,).

    `ious` are those of the predicted boxes; the other two come from `proposal_quality`. The oracle picks
    the best region and does not move it; the random region is drawn uniformly.
    """
    ious, best_ious, matching = (np.asarray(values, np.float64) for values in (ious, best_ious, matching))
    if not len(ious) == len(best_ious) == len(matching) > 0:
        raise DataError(f"{len(ious)} predicted boxes for {len(best_ious)} expressions: each needs one")
    return {
        "accuracy": 100 * float((ious >= CORRECT_IOU).mean()),
        "oracle": 100 * float((best_ious >= CORRECT_IOU).mean()),
        "random_region": 100 * float(matching.mean()),
    }
