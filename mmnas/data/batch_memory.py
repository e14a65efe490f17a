"""The memory of batches that workers fill and the training process reads: used again, not made anew.

New shared memory costs more than the copy into it, for the system clears its pages first. A worker keeps some
slots of memory. The first byte of a slot says whether a batch is in it; the process that got the batch clears the
byte when the last of the batch's tensors is gone, and the worker takes the slot for its next batch.
"""

import math
import mmap
import os
import weakref
from collections.abc import Mapping
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

Shapes = Mapping[str, tuple[tuple[int, ...], np.dtype]]
_Layout = list[tuple[str, tuple[int, ...], str, int]]  # name, shape, type, offset in bytes
_ALIGNMENT = 64  # bytes, of a cache line; the first one of a slot holds its byte
_SHARES = hasattr(os, "memfd_create")  # Linux


def new_batch(shapes: Shapes) -> dict[str, Tensor]:
    """Return a batch of tensors of these shapes and types, with any content; a worker's lie in a slot."""
    if get_worker_info() is None or not _SHARES:
        types = {name: torch.from_numpy(np.empty(0, dtype)).dtype for name, (_, dtype) in shapes.items()}
        return {name: torch.empty(shape, dtype=types[name]) for name, (shape, _) in shapes.items()}
    layout: _Layout = []
    size = _ALIGNMENT
    for name, (shape, dtype) in shapes.items():
        layout.append((name, shape, dtype.str, size))
        size += -(-math.prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
    return SlotBatch(_free_slot(size), layout)


class SlotBatch(dict[str, Tensor]):
    """A batch in a slot of this worker; sent to another process, its memory is handed over, not copied.

    Tensors that are added later are sent as torch does. What arrives is a plain dict.
    """

    def __init__(self, slot: "_Slot", layout: _Layout) -> None:
        self.slot, self.layout = slot, layout
        super().__init__(_tensors(slot.take(), layout))

    def __reduce__(self) -> tuple:
        self.slot.sent = True
        others = {name: self[name] for name in self.keys() - {name for name, *_ in self.layout}}
        return _receive, (DupFd(self.slot.file), self.slot.size, self.layout, others)


class _Slot:
    """A file in memory, mapped by the worker that owns it."""

    def __init__(self) -> None:
        self.file = os.memfd_create("batch")
        self.size = 0
        self.sent = False

    @property
    def free(self) -> bool:
        return not self.size or not self._map[0]

    def grow(self, size: int) -> None:
        """Make room for so many bytes."""
        if size > self.size:
            os.ftruncate(self.file, size)
            self._map, self.size = mmap.mmap(self.file, size), size

    def take(self) -> np.ndarray:
        """Return the bytes (size,) for a new batch; dropped without being sent, they leave the slot free."""
        self._map[0], self.sent = 1, False
        content = np.frombuffer(self._map, np.uint8)
        weakref.finalize(content, self._drop).atexit = False
        return content

    def _drop(self) -> None:
        if not self.sent:
            self._map[0] = 0


_SLOTS: list[_Slot] = []  # of this process


def _free_slot(size: int) -> _Slot:
    """Return a free slot of at least `size` bytes: one that has them, or another enlarged, or a new one."""
    free = [slot for slot in _SLOTS if slot.free]
    slot = next((slot for slot in free if slot.size >= size), None) or next(iter(free), None)
    if slot is None:
        slot = _Slot()
        _SLOTS.append(slot)
    slot.grow(size)
    return slot


def _receive(handle: Any, size: int, layout: _Layout, others: dict[str, Tensor]) -> dict[str, Tensor]:
    """Map a slot that another process filled; it is free again when the last of its tensors is gone."""
    file = handle.detach()
    try:
        memory = mmap.mmap(file, size)
    finally:
        os.close(file)
    content = np.frombuffer(memory, np.uint8)
    weakref.finalize(content, memory.__setitem__, 0, 0).atexit = False
    return {**_tensors(content, layout), **others}


def _tensors(content: np.ndarray, layout: _Layout) -> dict[str, Tensor]:
    batch = {}
    for name, shape, kind, offset in layout:
        dtype = np.dtype(kind)
        values = content[offset : offset + math.prod(shape) * dtype.itemsize].view(dtype)
        batch[name] = torch.from_numpy(values.reshape(shape))
    return batch
