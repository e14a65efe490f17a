"""Stand-ins for NumPy's classes, by which a pickle of arrays is read without running anything of NumPy's.

They collect what the pickle says of an array; `PickledArray.array` makes it once all of it is checked.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np


class _Dtype:
    """A type of numbers, by its short name."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name, self.order = name, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if isinstance(state, tuple) and len(state) > 1 else "<"


class PickledArray:
    """An array, or whatever has taken its place."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        """Return a float32 copy. Raises an exception of any kind where shape, type and bytes do not fit."""
        _, shape, dtype, columns_first, data = self.state
        sides = isinstance(shape, tuple) and all(type(side) is int and 0 <= side < 2**31 for side in shape)
        if not sides or len(shape) > 8 or not isinstance(data, (bytes, bytearray)) or not isinstance(dtype, _Dtype):
            raise ValueError("an array is damaged")
        if dtype.name not in ("f2", "f4", "f8", "i8") or dtype.order != "<":
            return np.zeros(0, np.float32)  # counters and the like, which the network does not have
        values = np.frombuffer(data, f"<{dtype.name}")
        if math.prod(shape) != len(values):
            raise ValueError(f"an array of shape {shape} holds {len(values)} numbers")
        return np.array(values.reshape(shape, order="F" if columns_first else "C"), np.float32)


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any = "C") -> PickledArray:
    """Do what pickles of protocol 5 ask of NumPy."""
    array = PickledArray()
    array.state = (1, shape, dtype, order == "F", data)
    return array


ARRAY_CLASSES: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _Dtype,
    "numpy.ndarray": PickledArray,
    "numpy.core.multiarray._reconstruct": PickledArray,
    "numpy._core.multiarray._reconstruct": PickledArray,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy._core.numeric._frombuffer": _frombuffer,
    "_codecs.encode": lambda text, _="latin1": str.encode(text, "latin1"),  # of protocol 2, for bytes
}
