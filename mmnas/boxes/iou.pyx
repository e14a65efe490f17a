# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Pairwise IoU and greedy non-maximum suppression, compiled."""
# Boxes are xyxy pixels, inclusive: a box is x2 - x1 + 1 wide. `mmnas.boxes` checks the arguments first.
# `reference.py` has the same two functions in NumPy; their results are bit-identical.

from cython cimport floating

import numpy as np


# Write the IoU of one box with `count` others, given as columns, to `row`. All boxes take the same steps, and what is
# not a box is set to 0 at the end, because C compilers vectorize loops without branches.
cdef void _iou_row(
    floating x1, floating y1, floating x2, floating y2,
    const floating* left, const floating* top, const floating* right, const floating* bottom,
    floating* row, Py_ssize_t count,
) noexcept nogil:
    cdef floating one = 1  # a bare 1 is a double in C, and would turn float32 into double
    cdef floating area = (x2 - x1 + one) * (y2 - y1 + one)
    cdef floating width, height, intersection, union
    cdef Py_ssize_t k
    for k in range(count):
        width = (x2 if x2 < right[k] else right[k]) - (x1 if x1 > left[k] else left[k]) + one
        height = (y2 if y2 < bottom[k] else bottom[k]) - (y1 if y1 > top[k] else top[k]) + one
        intersection = (width if width > 0 else 0) * (height if height > 0 else 0)
        union = area + (right[k] - left[k] + one) * (bottom[k] - top[k] + one) - intersection
        # A NaN coordinate reaches the union through an area, and NaN > 0 is false.
        row[k] = intersection / union if union > 0 else 0


def pairwise_iou(const floating[:, ::1] boxes, const floating[:, ::1] others):
    """Return the IoU (N, K) of boxes (N, 4) with others (K, 4), in their floating type."""
    cdef Py_ssize_t n = boxes.shape[0], count = others.shape[0], i
    result = np.empty((n, count), dtype=np.float32 if floating is float else np.float64)
    if n == 0 or count == 0:
        return result
    cdef floating[:, ::1] iou = result
    cdef const floating[:, ::1] columns = np.array(others.T, order="C")  # (4, K)
    with nogil:
        for i in range(n):
            _iou_row(
                boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3],
                &columns[0, 0], &columns[1, 0], &columns[2, 0], &columns[3, 0], &iou[i, 0], count,
            )
    return result


def suppress(const floating[:, ::1] boxes, double threshold):
    """Return a mask (N,) of the boxes (N, 4), best first, that suppression keeps."""
    # A box is kept if its IoU with every kept box before it is at most `threshold`.
    cdef Py_ssize_t n = boxes.shape[0], i, j
    result = np.ones(n, dtype=np.bool_)
    cdef unsigned char[::1] kept = result.view(np.uint8)
    cdef const floating[:, ::1] columns = np.array(boxes.T, order="C")  # (4, N)
    cdef floating[::1] row = np.empty(n, dtype=np.float32 if floating is float else np.float64)
    cdef floating limit = <floating>threshold
    with nogil:
        for i in range(n - 1):
            if not kept[i]:
                continue
            _iou_row(
                boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3],
                &columns[0, i + 1], &columns[1, i + 1], &columns[2, i + 1], &columns[3, i + 1],
                &row[i + 1], n - i - 1,
            )
            for j in range(i + 1, n):
                kept[j] &= row[j] <= limit
    return result
