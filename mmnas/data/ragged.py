"""Rows of varying length in two flat arrays: no object per row, nothing to copy when workers fork."""

from collections.abc import Collection, Iterable

import numpy as np


class Ragged:
    """A list of 1-D arrays of one type, stored end to end."""

    def __init__(self, rows: Iterable[Collection[float]], dtype: type) -> None:
        rows = list(rows)
        self._ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
        self._values: np.ndarray = np.fromiter(
            (value for row in rows for value in row), dtype, count=self._ends[-1] if rows else 0
        )

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> np.ndarray:
        start = self._ends[index - 1] if index else 0
        return self._values[start : self._ends[index]]

    def lengths(self) -> np.ndarray:
        """Return the length of every row."""
        return np.diff(self._ends, prepend=0)
