"""What a search leaves behind after every epoch: the probabilities of every block's candidates, and the loss.

The file, `<logs>/log/search_<VERSION>.json`, holds `{"candidates": {"enc": [name, ...], "dec": [...]},
"epochs": [entry, ...]}`; an entry has the fields of `SearchEpoch`. No torch here.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmnas.errors import DataError
from mmnas.files import PathLike, read_json, write_json
from mmnas.genotype import OPERATIONS
from mmnas.typed import INT_LIMIT, shown, to_plain

STREAMS = ("enc", "dec")
SUM_TOLERANCE = 1e-3  # room for float32 probabilities that were rounded when written


@dataclass(frozen=True)
class SearchEpoch:
    """One epoch of a search."""

    epoch: int
    """Counts from 1."""
    loss: float
    """Of the weight steps."""
    architecture_steps: int
    """Taken so far, all epochs together."""
    changed: int
    """Blocks whose most probable candidate differs from the epoch before."""
    unchanged_epochs: int
    """For how many epochs the genotype has stood."""
    probabilities: dict[str, list[list[float]]]
    """By stream, one row per block, in the order of the stream's candidates."""


@dataclass(frozen=True)
class SearchHistory:
    """All epochs of a search, and the candidates of each stream ("enc", "dec")."""

    candidates: dict[str, list[str]]
    epochs: list[SearchEpoch]


def entropy(probabilities: Sequence[float]) -> float:
    """Return the entropy over that of a uniform choice: 0 is decided, 1 undecided. One candidate gives 0."""
    if len(probabilities) < 2:
        return 0.0
    return sum(-p * math.log(p) for p in probabilities if p > 0) / math.log(len(probabilities))


def margin(probabilities: Sequence[float]) -> float:
    """Return the largest probability less the second largest; one candidate stands against 0."""
    first, second = sorted((*probabilities, 0.0), reverse=True)[:2]
    return first - second


def write_history(path: PathLike, history: SearchHistory) -> None:
    """Write `history` to `path`, atomically."""
    write_json(path, to_plain(history))


def read_history(path: PathLike) -> SearchHistory:
    """Return the history in `path`. Raises `DataError` naming the file and the key that does not fit."""
    value = read_json(path, "search history (which --RUN=search writes after every epoch)")
    try:
        return _history(value)
    except DataError as exception:
        raise DataError(f"{path}: {exception}; take the file as the search wrote it") from None


def _history(value: Any) -> SearchHistory:
    entry = _object(value, "the file", ("candidates", "epochs"))
    streams = _object(entry["candidates"], "candidates", STREAMS)
    candidates = {stream: _names(streams[stream], f"candidates.{stream}") for stream in STREAMS}
    entries = enumerate(_filled(entry["epochs"], "epochs"))
    epochs = [_epoch(item, f"epochs[{index}]", candidates) for index, item in entries]
    for index, (before, after) in enumerate(zip(epochs, epochs[1:], strict=False), start=1):
        _check(after.epoch > before.epoch, f"epochs[{index}].epoch", f"above {before.epoch}, the entry before")
        for stream in STREAMS:
            blocks = len(before.probabilities[stream])
            place = f"epochs[{index}].probabilities.{stream}"
            _check(len(after.probabilities[stream]) == blocks, place, f"{blocks} blocks, as in the entry before")
    return SearchHistory(candidates, epochs)


def _epoch(value: Any, place: str, candidates: dict[str, list[str]]) -> SearchEpoch:
    entry = _object(value, place, [field.name for field in dataclasses.fields(SearchEpoch)])
    for key, least in (("epoch", 1), ("architecture_steps", 0), ("changed", 0), ("unchanged_epochs", 0)):
        fits = _is_finite(entry[key]) and isinstance(entry[key], int) and entry[key] >= least
        _check(fits, f"{place}.{key}", f"a whole number of at least {least}")
    _check(_is_finite(entry["loss"]), f"{place}.loss", "a finite number")
    streams = _object(entry["probabilities"], f"{place}.probabilities", STREAMS)
    probabilities = {}
    for stream in STREAMS:
        inside = f"{place}.probabilities.{stream}"
        rows = enumerate(_filled(streams[stream], inside))
        probabilities[stream] = [_row(row, f"{inside}[{block}]", len(candidates[stream])) for block, row in rows]
    return SearchEpoch(**{**entry, "loss": float(entry["loss"]), "probabilities": probabilities})


def _row(value: Any, place: str, length: int) -> list[float]:
    fits = isinstance(value, list) and len(value) == length and all(_is_finite(p) and 0 <= p <= 1 for p in value)
    _check(fits, place, f"{length} probabilities, one per candidate")
    _check(abs(sum(value) - 1) <= SUM_TOLERANCE, place, f"probabilities that sum to 1, not to {sum(value):.4g}")
    return [float(p) for p in value]


def _names(value: Any, place: str) -> list[str]:
    names = _filled(value, place)
    fits = all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    _check(fits, place, "distinct operation names")
    for name in names:
        _check(name in OPERATIONS, place, f"names of operations; {shown(name)} is none")
    return names


def _object(value: Any, place: str, keys: Sequence[str]) -> dict[str, Any]:
    fits = isinstance(value, dict) and set(value) == set(keys)
    _check(fits, place, f"an object with the keys {', '.join(keys)}")
    return value


def _filled(value: Any, place: str) -> list[Any]:
    _check(isinstance(value, list) and bool(value), place, "a list with at least one entry")
    return value


def _is_finite(value: Any) -> bool:
    """Whether a value is a number, and no endless one."""
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) < INT_LIMIT
    return isinstance(value, float) and math.isfinite(value)


def _check(fits: bool, place: str, wanted: str) -> None:
    if not fits:
        raise DataError(f"{place} must be {wanted}")
