"""Plain values, such as JSON and YAML give, converted to checked types by msgspec; and how messages show them."""

import difflib
import re
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from mmnas.errors import ConfigError

LONGEST_SHOWN = 80
INT_LIMIT = 2**63
"""Integers must lie below this, and above its negative, for arrays and file formats to hold them."""

# Paths, names and lines of output cannot hold control characters or halves of characters.
Text = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f\ud800-\udfff]*\Z")]
Natural = Annotated[int, Meta(ge=0, le=INT_LIMIT - 1)]
Count = Annotated[int, Meta(ge=1, le=INT_LIMIT - 1)]
Finite = Annotated[float, Meta(ge=-1e300, le=1e300)]

_PLAIN = {
    "int": "an integer", "float": "a number", "str": "text", "bool": "true or false",
    "array": "a list", "object": "a mapping of keys to values", "|": "or",
    ">=": "of at least", "<=": "of at most", ">": "above", "<": "below",
}  # fmt: skip
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")


class _Brief(reprlib.Repr):
    """Shows the start of a value without walking the rest, which a hostile file may have made endless."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring = 3, LONGEST_SHOWN

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if abs(x) < INT_LIMIT else f"an integer of {x.bit_length()} bits"

    def repr_instance(self, x: Any, level: int) -> str:
        return repr(x) if isinstance(x, (bool, float, types.NoneType)) else f"<{type(x).__name__}>"


def shown(value: Any) -> str:
    """Return `value` for a message: in one line, at most `LONGEST_SHOWN` characters, whatever it is."""
    text = _Brief().repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


def nearest(value: str, valid: Iterable[str]) -> str:
    """Return a hint that names the valid value nearest to `value`, or all of them."""
    valid = list(valid)
    folded = {name.casefold(): name for name in valid}
    close = difflib.get_close_matches(value.casefold(), folded, n=1, cutoff=0.6)
    return f"did you mean {folded[close[0]]}?" if close else f"valid ones: {', '.join(valid)}"


def require_one_of(key: str, value: str, valid: Iterable[str]) -> None:
    """Raise `ConfigError` naming the key and the nearest valid value, unless `value` is among the valid ones."""
    if value not in valid:
        raise ConfigError(f"{key} {shown(value)} is unknown; {nearest(value, valid)}")


def describe_misfit(exception: Exception) -> str:
    """Return the message, msgspec's with the path first: "questions[3].image_id: expected int, got str"."""
    text, _, path = str(exception).partition(" - at `")
    text = text.replace("`", "")
    if "matching regex" in text:  # only `Text` has one
        text = "expected text without control characters"
    path = path.rstrip("`").removeprefix("$").lstrip(".")
    return f"{path}: {text[:1].lower()}{text[1:]}" if path else text


def convert(value: Any, kind: Any, path: str = "", error: type[ValueError] = ConfigError) -> Any:
    """Return the plain `value` as `kind`; raises `error` naming the key that does not fit. `path` prefixes it."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as exception:
        raise error(_explain(str(exception), value, kind, path)) from None
    except (AttributeError, TypeError, UnicodeError) as exception:  # halves of characters; tensors as mappings
        raise error(f"{path or 'the content'} holds what is not plain: {exception}") from None


def bare_type(kind: Any) -> Any:
    """Return a field's type without its limits, and without the None that it may be instead."""
    while typing.get_origin(kind) in (Annotated, typing.Union, types.UnionType):
        kind = typing.get_args(kind)[0]
    return kind


def field_types(kind: type[Struct]) -> dict[str, Any]:
    """Return the types of a struct's fields by the names that they have in files."""
    return {field.encode_name: field.type for field in msgspec.structs.fields(kind)}


def _explain(message: str, value: Any, kind: Any, path: str) -> str:
    """Put msgspec's message in plain words, after the whole key and before the value that was found there."""
    parts = re.fullmatch(r"(.*?)(?: - at `(key` in `)?\$([^`]*)`)?", message, re.DOTALL)
    assert parts is not None
    text, is_key, steps = parts.groups()
    head, unnamed, tail = (steps or "").partition("[...]")
    value, kind = _follow(head, value, bare_type(kind))
    path = (path + head).lstrip(".")
    if unnamed and isinstance(value, Mapping):  # msgspec does not name the key of a dictionary
        for key, item in value.items():
            try:
                msgspec.convert(item, typing.get_args(kind)[1])
            except msgspec.ValidationError as exception:
                return _explain(str(exception), item, typing.get_args(kind)[1], f"{path}.{_bare(key)}")
    place = f"{path}." if path else ""
    if is_key:
        return f"{path or 'the content'}: keys must be names, not {shown(list(value))}"
    if text.startswith("Object missing"):
        return f"key {place}{text.split('`')[1]} is missing"
    if text.startswith("Object contains unknown"):
        valid = field_types(kind)
        unknown = _bare(next(key for key in value if key not in valid))
        return f"unknown key {place}{unknown}; {nearest(unknown, valid)}"
    if text.startswith("Invalid enum"):
        return f"{path} {shown(value)} is unknown; {nearest(value, typing.get_args(kind))}"
    if not text.startswith(("Expected", "Number", "Integer")):
        return f"{place}{text}"  # of a check across fields, which starts with the name of one of them
    return f"{path or 'the content'} must be {_wanted(text)}, not {shown(value)}"


def _wanted(text: str) -> str:
    if "matching regex" in text:
        return "UTF-8 text without control characters"
    if not text.startswith("Expected"):
        return "a number in range"
    words = text.removeprefix("Expected ").split(", got")[0].replace("`", "").split(" ")
    return " ".join(_PLAIN.get(word, word) for word in words).replace("length of", "length")


def _follow(steps: str, value: Any, kind: Any) -> tuple[Any, Any]:
    """Return what lies at steps such as `.training.betas[1]`, and its type."""
    for name, index in _STEP.findall(steps):
        if name and name not in value:  # an unknown key whose name looks like a path
            break
        value = value[name] if name else value[int(index)]
        kind = bare_type(field_types(kind)[name] if name else typing.get_args(kind)[0])
    return value, kind


def _bare(key: Any) -> str:
    """Return a key as a message names it: without quotes where it is text."""
    return shown(key)[1:-1] if isinstance(key, str) else shown(key)
