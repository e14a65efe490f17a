"""Reading a `.caffemodel`: the blobs of its layers, without protobuf and without Caffe.

Of caffe.proto: NetParameter {layer = 100}, LayerParameter {name = 1, blobs = 7}, BlobProto {shape = 7, data = 5;
num, channels, height, width = 1 to 4 in old files}, BlobShape {dim = 1}. Everything else is passed over.
"""

import math
from collections.abc import Iterator

import numpy as np

_VARINT, _LENGTH, _FIXED = 0, 2, {1: 8, 5: 4}  # protobuf's wire types; bytes of those of fixed size
_MAX_DIM = 2**31
Blobs = list[np.ndarray]


def read_layers(content: bytes) -> dict[str, Blobs]:
    """Return the blobs of each layer by its name, float32 views of `content`.

    Raises ValueError where it is not such a file, or damaged.
    """
    layers: dict[str, Blobs] = {}
    for number, value in _fields(memoryview(content)):
        if number == 100 and isinstance(value, memoryview):
            name, blobs = _layer(value)
            if blobs:
                layers[name] = blobs
    return layers


def _layer(message: memoryview) -> tuple[str, Blobs]:
    name, blobs = "", []
    for number, value in _fields(message):
        if isinstance(value, memoryview):
            if number == 1:
                name = bytes(value).decode("ascii")
            elif number == 7:
                blobs.append(_blob(value))
    return name, blobs


def _blob(message: memoryview) -> np.ndarray:
    old_shape: dict[int, int] = {}
    shape, parts = None, []
    for number, value in _fields(message):
        if isinstance(value, int):
            if number <= 4:
                old_shape[number] = value
        elif number == 7:
            shape = _dims(value)
        elif number == 5:
            parts.append(np.frombuffer(value, "<f4"))
    if shape is None:
        shape = [old_shape.get(number, 1) for number in (1, 2, 3, 4)]
    values = parts[0] if len(parts) == 1 else np.concatenate([*parts, np.empty(0, np.float32)])
    if any(dim >= _MAX_DIM for dim in shape) or math.prod(shape) != len(values):
        raise ValueError(f"a blob of shape {shape[:8]} holds {len(values)} numbers")
    return values.reshape(shape)


def _dims(message: memoryview) -> list[int]:
    dims: list[int] = []
    for number, value in _fields(message):
        position = 0
        while number == 1 and isinstance(value, memoryview) and position < len(value):
            dim, position = _varint(value, position)
            dims.append(dim)
    if len(dims) > 32:
        raise ValueError(f"a blob has {len(dims)} dimensions")
    return dims


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field: an integer, or the bytes of anything of a given length."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        value, position = (_FIXED[kind], position) if kind in _FIXED else _varint(message, position)
        if kind == _VARINT:
            yield number, value
            continue
        end = position + value
        if number == 0 or end > len(message) or kind not in (_LENGTH, *_FIXED):
            raise ValueError("it is no .caffemodel, .pth, .pkl, .bin or .safetensors, or damaged")
        if kind == _LENGTH:
            yield number, message[position:end]
        position = end


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("a number is cut off")
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("a number has more than ten bytes")
