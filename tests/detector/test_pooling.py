"""RoI max pooling against a plain loop over boxes, cells and pixels."""

import math

import numpy as np
import torch

from mmnas.detector.pooling import RoiMaxPool


def pooled_by_loops(values, box):
    """The 14 x 14 cells of one box, from a map (C, H, W)."""
    x1, y1, x2, y2 = (int(math.copysign(math.floor(abs(side) / 16 + 0.5), side)) for side in box)
    width, height = np.float32(max(x2 - x1 + 1, 1)), np.float32(max(y2 - y1 + 1, 1))
    result = np.zeros((len(values), 14, 14), np.float32)
    for row in range(14):
        for column in range(14):
            top = min(max(int(np.floor(row * (height / np.float32(14)))) + y1, 0), values.shape[1])
            bottom = min(max(int(np.ceil((row + 1) * (height / np.float32(14)))) + y1, 0), values.shape[1])
            left = min(max(int(np.floor(column * (width / np.float32(14)))) + x1, 0), values.shape[2])
            right = min(max(int(np.ceil((column + 1) * (width / np.float32(14)))) + x1, 0), values.shape[2])
            if bottom > top and right > left:
                result[:, row, column] = values[:, top:bottom, left:right].max(axis=(1, 2))
    return result


def test_boxes_of_all_sizes_and_beyond_the_border():
    rng = np.random.default_rng(1)
    values = rng.standard_normal((3, 38, 63)).astype(np.float32)
    corners = rng.uniform(-40, 1000, (60, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0, 1000, (60, 2)) * rng.random((60, 1))], axis=1)
    boxes = np.concatenate([boxes, [[0, 0, 1007, 607], [8, 8, 24, 24], [500, 500, 500, 500], [0, 0, 7, 7]]])
    pool = RoiMaxPool(torch.from_numpy(values)[None], torch.from_numpy(boxes.astype(np.float32)))
    expected = np.stack([pooled_by_loops(values, box) for box in boxes.astype(np.float32)])
    for part in (slice(0, 40), slice(40, 64)):
        assert np.array_equal(pool[part].numpy(), expected[part])


def test_a_box_outside_the_map_is_zero():
    pool = RoiMaxPool(torch.ones(1, 2, 5, 5), torch.tensor([[2000.0, 0, 2100, 50]]))
    assert pool[0:1].abs().max() == 0
