"""Whether what a checkpoint holds is what it should be, for it may come from a stranger.

`torch.load` keeps code from running. What it gives may still be of any type, hold itself, claim a shape that no
bytes stand behind, or carry attributes in place of its methods.
"""

import math
import types
import typing
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmnas.data.pickles import unfolds_beyond
from mmnas.errors import CheckpointError
from mmnas.files import is_text
from mmnas.typed import INT_LIMIT, shown

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
        return {_key(key): _plain(item) for key, item in dict.items(value)}
    if isinstance(value, (list, tuple)):
        items = [_plain(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    whole = type(value) is int and abs(value) < INT_LIMIT
    text = type(value) is str and is_text(value)
    if whole or text or type(value) in (float, bool, types.NoneType) or is_dense(value):
        return value
    raise CheckpointError(f"holds {shown(value)}, which is neither a plain value nor a tensor in memory")


def _key(key: Any) -> str | int:
    if type(key) in (str, int):
        return _plain(key)
    raise CheckpointError(f"has the key {shown(key)}, which is neither text nor a whole number")


def is_dense(value: Any) -> bool:
    """Whether a value is a tensor whose every number has its bytes in the computer's memory."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_nested)
        and math.prod(value.shape) * value.element_size() <= value.untyped_storage().nbytes()
    )


def check_types(values: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Raise `CheckpointError`, without the file's name, for the first entry that is not of its type."""
    for name, hint in hints.items():
        if not _is_of(values[name], hint):
            raise CheckpointError(f"entry {name} is {shown(values[name])}, which is not of the type {_text(hint)}")
    for place, epoch in enumerate(values["history"]):
        if not (_is_of(epoch.get("epoch"), int) and _is_of(epoch.get("loss"), float)):
            raise CheckpointError(f"entry history, place {place} lacks a number of its epoch or loss")
        if not _is_of(epoch.get("metrics", ""), dict[str, float] | None):
            raise CheckpointError(f"entry history, place {place} has metrics that are no numbers, or none")


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a plain value is of the type that a field is annotated with; whole numbers must not be negative."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if hint is float:
        return type(value) in (int, float)
    if hint is int:
        return type(value) is int and value >= 0
    if origin is types.UnionType:
        return any(_is_of(value, argument) for argument in arguments)
    if origin is dict:
        return isinstance(value, dict) and all(
            _is_of(key, arguments[0]) and _is_of(item, arguments[1]) for key, item in value.items()
        )
    if origin is list:
        return isinstance(value, list) and all(_is_of(item, arguments[0]) for item in value)
    return isinstance(value, hint)


def _text(hint: Any) -> str:
    return str(hint).replace("typing.", "") if typing.get_origin(hint) else getattr(hint, "__name__", str(hint))


def unusable(state: Mapping[str, Tensor]) -> str | None:
    """Return what is wrong with the first tensor that cannot be a weight, or None."""
    for name, value in state.items():
        if value.dtype not in WEIGHTS:
            return f"{name} holds {str(value.dtype).removeprefix('torch.')} numbers, no weights"
        if not torch.isfinite(value).all():
            return f"{name} holds NaN or infinite values"
    return None
