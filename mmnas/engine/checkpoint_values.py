"""Checks of what a checkpoint holds, for it may come from a stranger.

`torch.load` keeps code from running. What it gives may still be of any type, hold itself, claim a shape that no
bytes stand behind, or carry attributes in place of its methods.
"""

import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmnas.data.pickles import unfolds_beyond
from mmnas.errors import CheckpointError
from mmnas.files import is_text
from mmnas.schema import INT_LIMIT, shown

WEIGHTS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def plain_values(value: Any, size: int) -> Any:
    """Return a copy in dicts, lists, tuples of numbers, strings, None and tensors of memory that is there.

    `size` is that of the file in bytes. Raises `CheckpointError`, without the file's name, for anything else.
    """
    try:
        if unfolds_beyond(value, size):
            raise CheckpointError("holds more values than bytes")
        return _plain(value)
    except RecursionError:
        raise CheckpointError("is nested too deep to be real") from None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in dict.items(value)}
    if isinstance(value, (list, tuple)):
        items = [_plain(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    integer = type(value) is int and abs(value) < INT_LIMIT
    text = type(value) is str and is_text(value)
    if integer or text or type(value) in (float, bool, types.NoneType) or _is_dense(value):
        return value
    raise CheckpointError(f"holds {shown(value)}, which is neither a plain value nor a tensor in memory")


def _is_dense(value: Any) -> bool:
    """Whether a value is a tensor whose numbers lie one after the other in the computer's memory."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_nested or value.is_neg() or value.is_conj())
        and value.is_contiguous()
        and value.storage_offset() * value.itemsize + value.nbytes <= value.untyped_storage().nbytes()
    )


def unusable(state: Mapping[str, Tensor]) -> str | None:
    """Return what is wrong with the first tensor that cannot be a weight (float32), or None."""
    for name, value in state.items():
        if value.dtype not in WEIGHTS:
            return f"{name} holds {str(value.dtype).removeprefix('torch.')} numbers, no weights"
    finite = torch.stack([value.float().isfinite().all() for value in state.values()] or [torch.tensor(True)])
    if finite.all():  # asks the device once, not for each weight
        return None
    return f"{list(state)[finite.tolist().index(False)]} holds NaN or infinite values"
