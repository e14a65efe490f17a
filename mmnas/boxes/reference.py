"""IoU and greedy non-maximum suppression in NumPy, bit-identical to `iou.pyx`.

Used where the extension is not built, and as the reference in its tests. Boxes are xyxy pixels, inclusive: a box is
x2 - x1 + 1 wide. The operations are in the same order as in `iou.pyx`.
"""

import numpy as np


def pairwise_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the IoU (N, K) of boxes (N, 4) with others (K, 4), in their floating type."""
    x1, y1, x2, y2 = boxes.T[:, :, None]  # each (N, 1)
    left, top, right, bottom = others.T  # each (K,)
    with np.errstate(over="ignore", invalid="ignore"):
        width = np.minimum(x2, right) - np.maximum(x1, left) + 1  # (N, K)
        height = np.minimum(y2, bottom) - np.maximum(y1, top) + 1
        intersection = np.maximum(width, 0) * np.maximum(height, 0)
        areas = (right - left + 1) * (bottom - top + 1)
        union = (x2 - x1 + 1) * (y2 - y1 + 1) + areas - intersection
        return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def suppress(boxes: np.ndarray, threshold: float) -> np.ndarray:
    """Return a mask (N,) of the boxes (N, 4), best first, that suppression keeps.

    A box is kept if its IoU with every kept box before it is at most `threshold`.
    """
    kept = np.ones(len(boxes), dtype=np.bool_)
    limit = boxes.dtype.type(threshold)
    for i in range(len(boxes) - 1):
        if kept[i]:
            kept[i + 1 :] &= pairwise_iou(boxes[i : i + 1], boxes[i + 1 :])[0] <= limit
    return kept
