"""Max pooling of regions of interest (RoI): boxes of any size become 14 x 14 cells of a feature map.

Letters: N boxes, H and W the size of the map.
"""

import functools
import itertools

import torch
from torch import Tensor

STRIDE = 16
"""Pixels of the network's input to a cell of the map."""
_CELLS = 14


class RoiMaxPool:
    """Max pooling of boxes to 14 x 14 cells of a res4 map, to Caffe's rounding.

    The maxima over ranges of 2^i rows and 2^j columns are computed once for all boxes. Those over any other range
    follow from four of them, which overlap.
    """

    def __init__(self, res4: Tensor, boxes: Tensor) -> None:
        """Prepare to pool boxes (N, 4), in pixels of the network's input, from a map (1, 1024, H, W)."""
        height, self._width = res4.shape[-2:]
        cells = _round_half_away(boxes / STRIDE)
        self._rows = _Ranges(cells[:, 1], cells[:, 3], height)
        self._columns = _Ranges(cells[:, 0], cells[:, 2], self._width)
        maxima = [res4[0].permute(1, 2, 0).contiguous()]  # (H, W, 1024)
        maxima = _doublings(maxima, 0, self._rows.levels)
        maxima = [part for rows in maxima for part in _doublings([rows], 1, self._columns.levels)]
        self._maxima = torch.cat([part.flatten(0, 1) for part in maxima])  # (levels * H * W, 1024)
        level = self._rows.level[:, :, None] * self._columns.levels + self._columns.level[:, None, :]
        self._offset = level * (height * self._width)  # (N, 14, 14) of each cell's level

    def __getitem__(self, part: slice) -> Tensor:
        """Return some of the boxes as (n, 1024, 14, 14), channels last in memory."""
        offset = self._offset[part]
        corners = []
        for row, column in itertools.product(self._rows.starts, self._columns.starts):
            index = offset + row[part, :, None] * self._width + column[part, None, :]  # (n, 14, 14)
            corners.append(self._maxima.index_select(0, index.flatten()))  # (n * 14 * 14, 1024)
        pooled = functools.reduce(_larger_of, corners).view(*offset.shape, -1)
        pooled[self._rows.empty[part, :, None] | self._columns.empty[part, None, :]] = 0
        return pooled.permute(0, 3, 1, 2)


def _larger_of(one: Tensor, other: Tensor) -> Tensor:
    return torch.maximum(one, other, out=one)


def _doublings(maxima: list[Tensor], dim: int, levels: int) -> list[Tensor]:
    """Append maxima over ranges of 2, 4, ... cells along `dim`; a range that leaves the map is never used."""
    for level in range(levels - 1):
        longer = maxima[-1].clone()
        size = longer.shape[dim] - 2**level
        if size > 0:
            inner = longer.narrow(dim, 0, size)
            torch.maximum(inner, maxima[-1].narrow(dim, 2**level, size), out=inner)
        maxima.append(longer)
    return maxima


class _Ranges:
    """Along one side of a map of `size` cells, the ranges that 14 bins of N boxes cover.

    Each bin is covered by two ranges of 2^`level` (N, 14) cells, which begin at `starts` (2, N, 14). The borders
    of the bins are float32, as in the original.
    """

    def __init__(self, first: Tensor, last: Tensor, size: int) -> None:
        length = (last - first + 1).clamp(min=1)
        bins = (length / _CELLS)[:, None]
        index = torch.arange(_CELLS, device=first.device, dtype=first.dtype)
        start = (torch.floor(index * bins) + first[:, None]).clamp(0, size).long()
        end = (torch.ceil((index + 1) * bins) + first[:, None]).clamp(0, size).long()
        self.empty = end <= start  # (N, 14)
        start, end = start.masked_fill(self.empty, 0), end.masked_fill(self.empty, 1)
        self.level = torch.log2((end - start).double()).floor().long()
        self.levels = int(self.level.max()) + 1
        self.starts = start, end - 2**self.level


def _round_half_away(values: Tensor) -> Tensor:
    magnitude = values.abs()
    whole = magnitude.floor()
    return torch.where(magnitude - whole >= 0.5, whole + 1, whole) * values.sign()
