"""Plain values to dataclasses: every value is converted by its field's type, every error names its key."""

import dataclasses
import difflib
import re
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from mmnas.errors import ConfigError

LONGEST_SHOWN = 80
INT_LIMIT = 2**63
"""Whole numbers must lie below this, and above its negative, for arrays and file formats to hold them."""
# No path, name or line of output may hold these: control characters and halves of characters.
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class _Brief(reprlib.Repr):
    """Shows the start of a value without walking the rest, which a hostile file may have made endless."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring = 3, LONGEST_SHOWN

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if abs(x) < INT_LIMIT else f"a whole number of {x.bit_length()} bits"

    def repr_instance(self, x: Any, level: int) -> str:
        return repr(x) if isinstance(x, (bool, float, types.NoneType)) else f"<{type(x).__name__}>"


def shown(value: Any) -> str:
    """Return `value` for a message: in one line, at most `LONGEST_SHOWN` characters, whatever it is."""
    text = _Brief().repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


def _name(key: Any) -> str:
    """Return a key as a message names it: bare where that is safe."""
    return shown(key)[1:-1] if isinstance(key, str) else shown(key)


def to_plain(value: Any) -> Any:
    """Return a dataclass or container as plain dicts, lists, strings, numbers, None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    return [to_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def build(cls: type, values: Any, place: str) -> Any:
    """Make the dataclass `cls` from plain values, converting by field type; `place` prefixes key names."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{place.rstrip('.') or 'configuration'} must be a mapping of keys to values")
    fields = {entry.name: entry for entry in dataclasses.fields(cls)}
    reject_unknown(values, fields, "key", place)
    hints = typing.get_type_hints(cls)
    made = {key: _convert(value, hints[key], f"{place}{key}") for key, value in values.items()}
    required = (name for name, entry in fields.items() if _is_required(entry))
    missing = [name for name in required if name not in made]
    if missing:
        raise ConfigError(f"key {place}{missing[0]} is missing")
    return cls(**made)


def _is_required(entry: dataclasses.Field) -> bool:
    return entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING


def reject_unknown(values: Mapping[str, Any], valid: Iterable[str], what: str, place: str) -> None:
    """Raise `ConfigError` at the first key of `values` that is not among the valid ones."""
    valid = list(valid)
    for key in values:
        if key not in valid:
            raise ConfigError(f"unknown {what} {place}{_name(key)}; {nearest(_name(key), valid)}")


def require_one_of(key: str, value: str, valid: Iterable[str]) -> None:
    """Raise `ConfigError` naming the key and the nearest valid value, unless `value` is among the valid ones."""
    if value not in valid:
        raise ConfigError(f"{key} {shown(value)} is unknown; {nearest(value, valid)}")


def nearest(value: str, valid: Iterable[str]) -> str:
    """Return a hint that names the valid value nearest to `value`, or all of them."""
    valid = list(valid)
    folded = {name.casefold(): name for name in valid}
    close = difflib.get_close_matches(value.casefold(), folded, n=1, cutoff=0.6)
    return f"did you mean {folded[close[0]]}?" if close else f"valid ones: {', '.join(valid)}"


def _convert(value: Any, hint: Any, key: str) -> Any:
    """Return `value` as the type `hint`, or raise `ConfigError` naming `key`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return build(hint, value, f"{key}.")
    if origin is types.UnionType:
        return None if value is None else _convert(value, arguments[0], key)
    if origin is tuple and isinstance(value, (list, tuple)):
        item = arguments[0]
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise ConfigError(f"{key} must hold {len(arguments)} values, not {len(value)}")
        return tuple(_convert(entry, item, f"{key}[{index}]") for index, entry in enumerate(value))
    if origin is dict and isinstance(value, Mapping):
        return {_key(name, key): _convert(entry, arguments[1], f"{key}.{name}") for name, entry in value.items()}
    return _convert_scalar(value, hint, key)


def _convert_scalar(value: Any, hint: Any, key: str) -> Any:
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-9 as text
        except (ValueError, OverflowError):
            pass
    plain = isinstance(hint, type) and typing.get_origin(hint) is None  # Python 3.10 takes tuple[int] for a type
    if plain and hint is not float and isinstance(value, hint) and _is_usable(value, hint):
        return value
    kind = hint.__name__ if plain else str(hint)
    raise ConfigError(f"{key} must be of type {kind}, not {shown(value)}")


def _is_usable(value: Any, hint: type) -> bool:
    """Whether a value of the right class is one in truth: true is no int, an int has 64 bits, text is one line."""
    if hint is int:
        return not isinstance(value, bool) and abs(value) < INT_LIMIT
    return hint is not str or _UNUSABLE.search(value) is None


def _key(name: Any, place: str) -> str:
    if not isinstance(name, str) or _UNUSABLE.search(name):
        raise ConfigError(f"{place} has the key {shown(name)}, which is no name")
    return name
