"""The headers of NumPy's array files, read safely: some crash `numpy.load`."""

from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

LONGEST_HEADER = 1 << 14  # bytes, more than any array has
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_array_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, whether in Fortran order, and dtype of the array whose values follow in `file`.

    Raises an exception of any kind for damaged bytes.
    """
    return _READERS[npy.read_magic(file)](file)
