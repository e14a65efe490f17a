"""Archives, arrays, pickles, checkpoints and MessagePack altered at random; `altered` for a file of any form."""

import io
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import srsly
import torch

from tests.hostile.mutate import (
    INFINITE,
    LEAVES,
    NAN,
    altered_bytes,
    altered_tree,
    json_altered,
    text_altered,
    yaml_altered,
)

# Arrays

HEADERS = [
    "(1000000000000,)", "(-1,)", "(-2, -4)", "(True, 3)", "(2, 3.5)", "()", "(0, 1000000000000)", "3", "None",
    "(1" + "0" * 4000 + ",)",
    "((((((3))))))", "(" * 5000, "-" * 5000 + "1", "((3, 4))", "(3,)*9",
]  # fmt: skip
DTYPES = [
    "<f8",
    ">f4",
    "<f2",
    "|O",
    "|V999999999",
    "<U1000000",
    "|S0",
    "<M8[s]",
    "<c16",
    "|b1",
    "<i8",
    "<f16",
    "x",
    "",
]


def _npz(content: bytes, rng: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    action = rng.randrange(4)
    if action == 0:
        members[rng.choice(("y.npy", "x", "bbox.npy", "../x.npy"))] = members.pop(name)
    elif action == 1:
        members[name] = _other_header(members[name], rng)
    elif action == 2:
        members[name] = _other_array(members[name], rng)
    else:
        members[name] = altered_bytes(members[name], rng)
    return _zipped(members, rng)


def _other_header(member: bytes, rng: random.Random) -> bytes:
    shape = rng.choice((*HEADERS, "(16, 3)", "(3, 4)"))
    order = rng.choice(("True", "False", "7"))
    header = f"{{'descr': {rng.choice(DTYPES)!r}, 'fortran_order': {order}, 'shape': {shape}}}"
    version, size = rng.choice(((b"\x01\x00", "<H"), (b"\x02\x00", "<I"), (b"\x03\x00", "<I"), (b"\x09\x00", "<H")))
    text = f"{header}\n".encode()
    return b"\x93NUMPY" + version + struct.pack(size, min(len(text), 65_535)) + text + member[128:]


def _other_array(member: bytes, rng: random.Random) -> bytes:
    array = np.load(io.BytesIO(member), allow_pickle=False)
    made = rng.choice((
        lambda: array.astype(rng.choice(("f8", "f2", "i8", "u1", "c16", "S3", "U2", "?", "m8[s]"))),
        lambda: np.array(array).reshape(-1)[: rng.randrange(9)],
        lambda: array * np.float32(rng.choice((NAN, INFINITE, 1e30, -1, 0))),
        lambda: array[None], lambda: array.T, lambda: array[..., :0] if array.ndim else array,
        lambda: np.resize(array, (rng.choice((1, 3, 500)), rng.choice((4, 16)))),
    ))()  # fmt: skip
    stream = io.BytesIO()
    np.save(stream, made, allow_pickle=False)
    return stream.getvalue()


def _zipped(members: dict[str, bytes], rng: random.Random) -> bytes:
    """Write an archive, now and then with the sizes that its directory claims overwritten."""
    stream = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    data = bytearray(stream.getvalue())
    if rng.random() < 0.3:
        entry = data.find(b"PK\x01\x02")
        struct.pack_into("<I", data, entry + rng.choice((20, 24, 42)), rng.choice((0, 1, 2**31, 2**32 - 2)))
    return bytes(data)


def _zip(content: bytes, rng: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    members[name] = text_altered(members[name], rng)
    return _zipped(members, rng)


def _npy(content: bytes, rng: random.Random) -> bytes:
    return _other_header(content, rng) if rng.random() < 0.5 else _other_array(content, rng)


# Pickles, checkpoints, MessagePack


def _nested(levels: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = wrap(value)
    return value


def _within_itself() -> list[Any]:
    value: list[Any] = [1]
    value.append(value)
    return value


def _bomb() -> list[Any]:
    return _nested(12, lambda value: [value] * 10)


def _object_leaves() -> list[Any]:
    deep = [_nested(200, lambda value: [value]), _nested(200, lambda value: (value,)), _within_itself(), _bomb()]
    return [*LEAVES, *deep, 1 << 20_000, b"bytes", 1j, (1, 2), {1: 2}, {(1, 2): 3}, {2**61 - 1: 1}]


PIECES = [
    b"r\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 7 + b"\x00", b"\x96" + b"\xff" * 5 + b"\x00\x00\x00",
    b"\x8b\xff\xff\xff\x7f",
    b"cos\nsystem\n", b"(S'true'\ntR", b"\x85" * 50, b"2" * 50, b"0" * 5, b"(" * 50, b"}]\x8f",
    b"\x95" + b"\xff" * 8,
    b"j\xff\xff\xff\xff", b"P1\n", b"\x82\x01", b"p99999999999\n", b"L" + b"9" * 5000 + b"L\n", b"b", b"s",
    b"u", b"e", b"\x97",
]  # fmt: skip


def _pickle(content: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        place = rng.randrange(2, len(content))
        return content[:place] + rng.choice(PIECES) + content[place:]
    value = altered_tree(pickle.loads(content), rng, _object_leaves(), share=True)
    try:
        return pickle.dumps(value, protocol=rng.randrange(pickle.HIGHEST_PROTOCOL + 1))
    except ValueError:  # protocol 0 writes whole numbers in digits, of which there may be too many
        return altered_bytes(content, rng)


class Shadowed(dict):
    """Is written as an ordered dict with an attribute in place of a method."""

    def __reduce__(self) -> tuple:
        return OrderedDict, (), {"items": 5, "keys": 5, "_metadata": 7}, None, iter(dict.items(self))


def _tensor_leaves() -> list[Any]:
    ones = torch.ones(2, 3)
    return [
        *_object_leaves(), ones, ones.to(torch.int64), ones.to(torch.float64), ones * NAN,
        ones.to(torch.complex64), ones[:0],
        torch.ones(1).expand(10**6, 10**6), torch.empty(3, device="meta"), ones.to_sparse(), torch.tensor(True),
        ones.T,
        torch.nn.Parameter(ones), ones.to(torch.float8_e4m3fn), ones.to(torch.bfloat16), torch.Size([1, 2]),
        torch.device("cpu"),
        torch.quantize_per_tensor(ones, 0.1, 0, torch.quint8), Shadowed(a=ones), torch.float32, bytearray(9),
        {ones: 1},
        torch.tensor(3.0).as_strided((2**20, 2**20), (0, 0)),
    ]  # fmt: skip


def _torch(content: bytes, rng: random.Random) -> bytes:
    value = torch.load(io.BytesIO(content), weights_only=True)
    archive = zipfile.is_zipfile(io.BytesIO(content))
    stream = io.BytesIO()
    try:
        torch.save(
            altered_tree(value, rng, _tensor_leaves(), share=True), stream, _use_new_zipfile_serialization=archive
        )
    except (RuntimeError, NotImplementedError, RecursionError, ValueError):  # what torch itself cannot write
        return altered_bytes(content, rng)
    return stream.getvalue() if rng.random() < 0.8 else altered_bytes(stream.getvalue(), rng)


def _msgpack(content: bytes, rng: random.Random) -> bytes:
    value = srsly.msgpack_loads(content)
    for _ in range(rng.randint(1, 3)):
        leaf = rng.choice((-1, 10**6, 2**63, 1.5, None, "a", [], {}, True, b"x", [0, 1], -3))
        value = (
            rng.choice((leaf, {**value, rng.choice(list(value)): leaf}))
            if isinstance(value, dict) and value
            else leaf
        )
    return srsly.msgpack_dumps(value)


Alter = Callable[[bytes, random.Random], bytes]

FORMS: dict[str, Alter] = {
    "json": json_altered,
    "yaml": yaml_altered,
    "text": text_altered,
    "npz": _npz,
    "npy": _npy,
    "zip": _zip,
    "pickle": _pickle,
    "torch": _torch,
    "msgpack": _msgpack,
    "bytes": altered_bytes,
}


def altered(content: bytes, form: str, rng: random.Random) -> bytes:
    """Return `content`, a file of one of `FORMS`, with its bytes or, as often, its values altered."""
    return (altered_bytes if rng.random() < 0.5 else FORMS[form])(content, rng)
