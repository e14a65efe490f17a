"""Rows of different lengths in two flat arrays: no object per row, nothing to copy when workers fork."""

from array import array
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np


class Ragged:
    """A list of 1-D arrays of one type, stored end to end."""

    def __init__(self, rows: Iterable[Collection[float]], dtype: type) -> None:
        values: array[Any] = array(np.dtype(dtype).char)
        ends = array("q")
        for row in rows:
            values.extend(row)
            ends.append(len(values))
        self._values, self._ends = np.array(values), np.array(ends)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> np.ndarray:
        start = self._ends[index - 1] if index else 0
        return self._values[start : self._ends[index]]

    def lengths(self) -> np.ndarray:
        """Return the length of every row."""
        return np.diff(self._ends, prepend=0)
