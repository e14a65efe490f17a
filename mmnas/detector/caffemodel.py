"""Reading a `.caffemodel`: the blobs of its layers, without protobuf and without Caffe.

Of caffe.proto: NetParameter {layer = 100}, LayerParameter {name = 1, blobs = 7}, BlobProto {shape = 7, data = 5;
num, channels, height, width = 1 to 4 in old files}, BlobShape {dim = 1}. Everything else is passed over.
"""

import math
from typing import Any

import numpy as np

_VARINT, _LENGTH, _FIXED = 0, 2, {1: 8, 5: 4}  # protobuf's wire types; bytes of those of fixed size
_MAX_DIM, _MAX_DIMS = 2**31, 32
Blobs = list[np.ndarray]


def read_layers(content: bytes) -> dict[str, Blobs]:
    """Return the blobs of each layer by its name, float32 views of `content`.

    Raises an exception of any kind where it is not such a file, or damaged.
    """
    layers: dict[str, Blobs] = {}
    for layer in _fields(memoryview(content), 100)[100]:
        parts = _fields(layer, 1, 7)
        if parts[7]:
            layers[bytes(parts[1][-1]).decode("ascii")] = [_blob(blob) for blob in parts[7]]
    return layers


def _blob(message: memoryview) -> np.ndarray:
    fields = _fields(message, 1, 2, 3, 4, 5, 7)
    shape = _dims(fields[7][-1]) if fields[7] else [(fields[number] or [1])[-1] for number in (1, 2, 3, 4)]
    parts = [np.frombuffer(part, "<f4") for part in fields[5]]
    values = parts[0] if len(parts) == 1 else np.concatenate([*parts, np.empty(0, np.float32)])
    if any(dim >= _MAX_DIM for dim in shape) or math.prod(shape) != len(values):
        raise ValueError(f"a blob of shape {shape[:8]} holds {len(values)} numbers")
    return values.reshape(shape)


def _dims(message: memoryview) -> list[int]:
    dims: list[int] = []
    for packed in _fields(message, 1)[1]:
        position = 0
        while position < len(packed):
            dim, position = _varint(packed, position)
            dims.append(dim)
            if len(dims) > _MAX_DIMS:
                raise ValueError(f"a blob has more than {_MAX_DIMS} dimensions")
    return dims


def _fields(message: memoryview, *wanted: int) -> dict[int, list[Any]]:
    """Return the values of the fields of the `wanted` numbers: integers, or bytes of a given length."""
    found: dict[int, list[Any]] = {number: [] for number in wanted}
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        value, position = (_FIXED[kind], position) if kind in _FIXED else _varint(message, position)
        end = position if kind == _VARINT else position + value
        if number == 0 or end > len(message) or kind not in (_VARINT, _LENGTH, *_FIXED):
            raise ValueError("it is no .caffemodel, .pth, .pkl, .bin or .safetensors, or damaged")
        if number in found and kind in (_VARINT, _LENGTH):
            found[number].append(value if kind == _VARINT else message[position:end])
        position = end
    return found


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("a number has more than ten bytes")
