"""Max pooling of regions of interest (RoI): boxes of any size become 14 x 14 cells of a feature map.

Letters: N boxes, H and W the size of the map, C channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

STRIDE = 16
"""Pixels of the network's input to a cell of the map."""
_CELLS = 14

Borders = Sequence[Sequence[tuple[int, int]]]
"""Of one box: where each of its 14 rows of cells begins and ends on the map, then each of its 14 columns."""


def cell_borders(boxes: Tensor, height: int, width: int) -> list[Borders]:
    """Return the borders of boxes (N, 4), pixels of the network's input, on a map (H, W), to Caffe's rounding."""
    magnitude = boxes.abs() / STRIDE
    corners = (magnitude.floor() + (magnitude.frac() >= 0.5)) * boxes.sign()  # halves are rounded away from 0
    ranges = [_ranges(corners[:, 1], corners[:, 3], height), _ranges(corners[:, 0], corners[:, 2], width)]
    return torch.stack(ranges, dim=1).tolist()  # (N, 2, 14, 2)


def _ranges(first: Tensor, last: Tensor, size: int) -> Tensor:
    """Return begin and end (N, 14, 2) of the cells from `first` to `last` (N,); the fractions are float32."""
    bins = (last - first + 1).clamp(min=1)[:, None] / _CELLS
    index = torch.arange(_CELLS, device=first.device, dtype=first.dtype)
    ends = torch.stack([torch.floor(index * bins), torch.ceil((index + 1) * bins)], dim=-1)
    return (ends + first[:, None, None]).clamp(0, size).long()


def max_pool(values: Tensor, boxes: Sequence[Borders]) -> Tensor:
    """Return the maxima (N, C, 14, 14) of a map (H, W, C) in each cell of boxes, channels last in memory."""
    pooled = []
    for rows, columns in boxes:
        bands = torch.stack([_largest(values[begin:end], 0) for begin, end in rows])  # (14, W, C)
        pooled.append(torch.stack([_largest(bands[:, begin:end], 1) for begin, end in columns], dim=1))
    return torch.stack(pooled).permute(0, 3, 1, 2)


def _largest(values: Tensor, dim: int) -> Tensor:
    return values.amax(dim) if values.shape[dim] else values.sum(dim)  # 0 of an empty cell
