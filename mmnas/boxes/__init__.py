"""Boxes in pixels: pairwise IoU and greedy non-maximum suppression (NMS) on NumPy arrays.

A box is x1, y1, x2, y2 in pixels, both corners inclusive: it is x2 - x1 + 1 wide and y2 - y1 + 1 high. A box with a
width or height that is not positive, or with a NaN coordinate, has IoU 0 with every box. `iou.pyx` does the work;
if it is not compiled, `reference.py` gives the same results. `geometry.py` has the batched functions in torch.
"""

import functools
import logging
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike

_LOGGER = logging.getLogger(__name__)


def pairwise_iou(boxes: ArrayLike, others: ArrayLike) -> np.ndarray:
    """Return the IoU (N, K) of boxes (N, 4) with others (K, 4).

    The result is float32 if both are, else float64. Raises ValueError for other shapes, and for values that are not
    real numbers.
    """
    boxes, others = _as_boxes("boxes", boxes), _as_boxes("others", others)
    both_single = boxes.dtype == np.float32 and others.dtype == np.float32
    dtype = np.float32 if both_single else np.float64
    return _kernels().pairwise_iou(_packed(boxes, dtype), _packed(others, dtype))


def nms(boxes: ArrayLike, scores: ArrayLike, threshold: float) -> np.ndarray:
    """Return the indices (int64) of the boxes (N, 4) that greedy suppression keeps, by descending score (N,).

    The best box removes those whose IoU with it is above `threshold`, then the best of the rest does the same, and
    so on. Of equal scores the lower index comes first; NaN scores come last. Raises ValueError for other shapes,
    values that are not real numbers, or a threshold outside 0 to 1.
    """
    boxes, scores = _as_boxes("boxes", boxes), _as_real("scores", scores)
    if scores.shape != boxes.shape[:1]:
        raise ValueError(f"scores must have shape ({len(boxes)},), one for each box, not {scores.shape}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be an IoU from 0 to 1, not {threshold}")
    order = np.argsort(-scores.astype(np.float64), kind="stable")
    dtype = np.float32 if boxes.dtype == np.float32 else np.float64
    kept = _kernels().suppress(_packed(boxes[order], dtype), float(threshold))
    return order[kept].astype(np.int64, copy=False)


def _as_boxes(name: str, values: ArrayLike) -> np.ndarray:
    array = _as_real(name, values)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"{name} must have shape (n, 4), each x1, y1, x2, y2, not {array.shape}")
    return array


def _as_real(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be real numbers, not {array.dtype}")
    return array


def _packed(array: np.ndarray, dtype: type[np.floating]) -> np.ndarray:
    """Return `array` in native byte order, aligned and C-contiguous, as the extension needs it."""
    return np.require(array, dtype, ["C_CONTIGUOUS", "ALIGNED"])


@functools.cache
def _kernels() -> ModuleType:
    """Return the extension; if it is missing, warn once and return the NumPy functions."""
    try:
        import mmnas.boxes.iou as iou
    except ImportError as error:
        _LOGGER.warning(
            "the compiled box extension cannot be loaded (%s): NumPy gives the same results, slower; "
            "to build it: python3 setup.py build_ext --inplace",
            error,
        )
        from mmnas.boxes import reference

        return reference
    return iou
