"""Files altered at random: their bytes, or what stands in them.

`altered_bytes` takes any file, `json_altered` and its like one of a form, and give what a damaged disk or a hostile
stranger might have made of it. The same random numbers give the same bytes. Binary forms: `mutate_binary.py`.
"""

import copy
import json
import random
import struct
from typing import Any

import yaml

NAN, INFINITE = float("nan"), float("inf")
# Stand for what the writers of JSON refuse to write: replaced in the text.
RAW = {
    '"@digits@"': "9" * 10_000,
    '"@deep@"': "[" * 100_000 + "]" * 100_000,
    '"@objects@"': '{"a":' * 50_000 + "1" + "}" * 50_000,
    '"@within@"': "[" * 900 + "]" * 900,
    '"@float@"': "1e99999",
}
NUMBERS = [
    -1,
    0,
    1,
    7,
    2**31,
    2**53 + 1,
    2**63,
    -(2**64),
    10**40,
    2**61 - 1,
    1e308,
    5e-324,
    NAN,
    INFINITE,
    -INFINITE,
]
STRINGS = [
    "",
    " ",
    "a",
    "0",
    "1e-3",
    "x" * 5000,
    "\ud800",
    "\x00",
    "\n\x1b[2J",
    "../../x",
    "é",
    "self_att_64",
    "val",
]
LEAVES = [None, True, False, *NUMBERS, *STRINGS, [], {}, [[]], {"": None}, [1, "a", None]]


# Bytes


def altered_bytes(content: bytes, rng: random.Random) -> bytes:
    """Flip, insert, delete, repeat, swap or cut, one to four times."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice((1, 2, 8, 64, 512)))
        rng.choice(_BYTE_ACTIONS)(data, start, end, rng)
    return bytes(data)


def _flip(data: bytearray, start: int, end: int, rng: random.Random) -> None:
    for place in range(start, min(end, start + 8)):
        data[place] ^= 1 << rng.randrange(8)


def _insert(data: bytearray, start: int, end: int, rng: random.Random) -> None:
    data[start:start] = rng.choice((rng.randbytes(end - start + 1), b"\xff" * 8, b"\x00" * 8, b"[" * 40, b"9" * 30))


def _delete(data: bytearray, start: int, end: int, rng: random.Random) -> None:
    del data[start:end]


def _repeat(data: bytearray, start: int, end: int, rng: random.Random) -> None:
    data[start:start] = data[start:end] * rng.choice((1, 2, 50))


def _swap(data: bytearray, start: int, end: int, rng: random.Random) -> None:
    other = rng.randrange(len(data) + 1)
    data[start:end], data[other : other + end - start] = data[other : other + end - start], data[start:end]


def _cut(data: bytearray, start: int, end: int, rng: random.Random) -> None:
    del data[start:]


def _overwrite(data: bytearray, start: int, end: int, rng: random.Random) -> None:
    number = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1))
    data[start : start + 8] = struct.pack("<Q", number)


_BYTE_ACTIONS = (_flip, _insert, _delete, _repeat, _swap, _cut, _overwrite)


# Values


def altered_tree(value: Any, rng: random.Random, leaves: list[Any], share: bool = False) -> Any:
    """Replace, remove, repeat, rename or swap items, one to three times; with `share` containers may recur."""
    root = [copy.deepcopy(value)]
    for _ in range(rng.randint(1, 3)):
        containers = [container for container in _containers(root) if len(container)]
        if containers:
            _alter(rng.choice(containers), rng, leaves, containers if share else [])
    return root[0] if root else None


def _containers(root: Any) -> list[Any]:
    found, seen, pending = [], set(), [root]
    while pending:
        value = pending.pop()
        if isinstance(value, (dict, list)) and id(value) not in seen:
            seen.add(id(value))
            found.append(value)
            pending += value.values() if isinstance(value, dict) else value
    return found


def _alter(container: Any, rng: random.Random, leaves: list[Any], shared: list[Any]) -> None:
    keys = list(container) if isinstance(container, dict) else range(len(container))
    key, other = rng.choice(keys), rng.choice(keys)
    action = rng.randrange(6)
    if action == 0:
        del container[key]
    elif action == 1 and isinstance(container, dict):
        container[rng.choice(("", "x", "train", "\ud800", "a\nb"))] = container.pop(key)
    elif action == 1:
        container[key:key] = [container[key]] * rng.choice((1, 5, 300))
    elif action == 2:
        container[key], container[other] = container[other], container[key]
    elif action == 3 and shared:
        container[key] = rng.choice(shared)
    else:
        leaf = rng.choice(leaves)  # copied, for what is put in may be altered itself
        container[key] = copy.deepcopy(leaf) if type(leaf) in (dict, list) else leaf


def json_text(value: Any) -> str:
    """Return JSON with the first of each mark of `RAW` replaced."""
    text = json.dumps(value)
    for mark, raw in RAW.items():
        text = text.replace(mark, raw, 1)
    return text


def json_altered(content: bytes, rng: random.Random) -> bytes:
    leaves = LEAVES + [mark.strip('"') for mark in RAW]
    return json_text(altered_tree(json.loads(content), rng, leaves)).encode("utf-8", "surrogatepass")


YAML_PIECES = [
    "&a [1, 2]", "*a", "<<: *a", "!!int ''", "!!timestamp x", "!!python/object/apply:os.getcwd []", "2001-99-99",
    "1:60:60.5", ":".join("9" * 900), "1" * 6000, "0x" + "f" * 6000, "{? [a] : 1}", "? {a: b}\n: c", "- - - -",
    "[" * 400,
    "---\na: 1\n---", "%YAML 9.9", "\t", "'", '"\\ud800"', '"\\0"', "=", "~", ".nan", "-.inf", "|", ">",
    "null: {null: 1}",
]  # fmt: skip


def yaml_altered(content: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        lines = content.decode().split("\n")
        place = rng.randrange(len(lines))
        start = lines[place].find(":") + 1 if rng.random() < 0.7 else 0
        lines[place] = f"{lines[place][:start]} {rng.choice(YAML_PIECES)}"
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    leaves = LEAVES + [mark.strip('"') for mark in RAW]
    return json_text(altered_tree(yaml.safe_load(content), rng, leaves)).encode("utf-8", "surrogatepass")


def text_altered(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    pieces = [
        b"",
        b"\xff",
        b"9" * 5000,
        b"-1",
        b"1e999 " * 300,
        b"nan " * 300,
        b"\x00",
        b" " * 300,
        b"\r",
        b"x" * 70_000,
    ]
    for _ in range(rng.randint(1, 3)):
        place, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        fields = lines[other].split(b" ")
        fields[rng.randrange(len(fields))] = rng.choice(pieces)
        lines[place] = b" ".join(fields)
    return b"\n".join(lines)
