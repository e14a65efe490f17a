"""What a search records after every epoch: the loss, and the probabilities of every block's candidates.

The file, `<logs>/log/search_<VERSION>.json`, holds `{"candidates": {"enc": [name, ...], "dec": [...]},
"epochs": [entry, ...], "scored": [...]}`; an entry has the fields of `SearchEpoch`, a genotype that was scored for
the final choice those of `Scored`. No torch here.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from mmnas.config import MOST_BLOCKS
from mmnas.errors import DataError
from mmnas.files import PathLike, read_json, write_json
from mmnas.genotype import OPERATIONS, Genotype
from mmnas.schema import Count, Finite, Natural, convert, shown

STREAMS = ("enc", "dec")
SUM_TOLERANCE = 1e-3  # room for float32 probabilities that were rounded when written
LOSS_FALLS = 0.95  # below this part of what it was, the loss counts as fallen

Filled = Meta(min_length=1)
Probability = Annotated[float, Meta(ge=0, le=1)]


class SearchEpoch(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One epoch of a search."""

    epoch: Count
    """Counts from 1."""
    loss: Finite
    """Of the weight steps."""
    architecture_steps: Natural
    """Taken so far, all epochs together."""
    changed: Natural
    """Blocks whose most probable candidate differs from the epoch before."""
    unchanged_epochs: Natural
    """Number of epochs for which the genotype has stayed the same."""
    probabilities: dict[str, Annotated[list[list[Probability]], Meta(min_length=1, max_length=MOST_BLOCKS)]]
    """By stream, one row per block, in the order of the stream's candidates."""
    parameters: Natural = 0
    """Of the blocks found, at the size that genotypes are trained with; so are the multiply-adds."""
    multiply_adds: Natural = 0

    @property
    def entropy(self) -> float:
        """The mean entropy of all blocks."""
        rows = [row for stream in self.probabilities.values() for row in stream]
        return sum(map(entropy, rows)) / len(rows)


class Scored(Struct, frozen=True, forbid_unknown_fields=True):
    """A genotype scored by the supernet on the held-out part."""

    genotype: Genotype
    loss: Finite
    parameters: Natural
    multiply_adds: Natural


class SearchHistory(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All epochs of a search, and the candidates of each stream ("enc", "dec")."""

    candidates: dict[str, Annotated[list[str], Filled]]
    epochs: Annotated[list[SearchEpoch], Filled]
    scored: list[Scored] = []
    """For the final choice, the best first."""

    @property
    def found(self) -> Scored:
        """What the search has found so far: the best of those scored, else the most probable one."""
        if self.scored:
            return self.scored[0]
        last, names = self.epochs[-1], self.candidates
        best = [[(names[each][row.index(max(row))],) for row in last.probabilities[each]] for each in STREAMS]
        return Scored(Genotype(*map(tuple, best)), last.loss, last.parameters, last.multiply_adds)


def entropy(probabilities: Sequence[float]) -> float:
    """Return the entropy over that of a uniform choice: 0 is decided, 1 undecided. One candidate gives 0."""
    if len(probabilities) < 2:
        return 0.0
    return sum(-p * math.log(p) for p in probabilities if p > 0) / math.log(len(probabilities))


def margin(probabilities: Sequence[float]) -> float:
    """Return the largest probability less the second largest; one candidate stands against 0."""
    first, second = sorted((*probabilities, 0.0), reverse=True)[:2]
    return first - second


def collapses(epochs: Sequence[SearchEpoch]) -> bool:
    """Whether entropy has fallen by half, but the loss hardly, since the last epoch without architecture steps."""
    before = next((epoch for epoch in reversed(epochs) if not epoch.architecture_steps), epochs[0])
    last = epochs[-1]
    return last.entropy < before.entropy / 2 and last.loss > LOSS_FALLS * before.loss


def write_history(path: PathLike, history: SearchHistory) -> None:
    """Write `history` to `path`, atomically."""
    write_json(path, msgspec.to_builtins(history))


def read_history(path: PathLike) -> SearchHistory:
    """Return the history in `path`. Raises `DataError` naming the file and the key that does not fit."""
    value = read_json(path, "search history (which --RUN=search writes after every epoch)")
    try:
        history = convert(value, SearchHistory, error=DataError)
        check_history(history)
    except DataError as exception:
        raise DataError(f"{path}: {exception}; take the file as the search wrote it") from None
    return history


def check_history(history: SearchHistory) -> None:
    """Raise `DataError` naming the key at which the parts of a history do not fit each other."""
    _check_candidates(history)
    for index, epoch in enumerate(history.epochs):
        _check_epoch(epoch, f"epochs[{index}]", history)
        if index:
            _check_follows(epoch, f"epochs[{index}]", history.epochs[index - 1])
    for index, each in enumerate(history.scored):
        _check_scored(each, f"scored[{index}]", history)
        _require(not index or each.loss >= history.scored[index - 1].loss, "scored", "in order, the best first")


def _check_candidates(history: SearchHistory) -> None:
    _require(set(history.candidates) == {*STREAMS}, "candidates", "a mapping with the keys enc, dec")
    for stream, names in history.candidates.items():
        _require(len(set(names)) == len(names), f"candidates.{stream}", "distinct operation names")
        for name in names:
            _require(name in OPERATIONS, f"candidates.{stream}", f"names of operations; {shown(name)} is none")


def _check_epoch(epoch: SearchEpoch, key: str, history: SearchHistory) -> None:
    _require(set(epoch.probabilities) == {*STREAMS}, f"{key}.probabilities", "a mapping with the keys enc, dec")
    for stream, rows in epoch.probabilities.items():
        length = len(history.candidates[stream])
        for block, row in enumerate(rows):
            path = f"{key}.probabilities.{stream}[{block}]"
            _require(len(row) == length, path, f"{length} probabilities, one per candidate")
            total = f"probabilities that sum to 1, not to {sum(row):.4g}"
            _require(abs(sum(row) - 1) <= SUM_TOLERANCE, path, total)


def _check_scored(scored: Scored, key: str, history: SearchHistory) -> None:
    for stream, rows in zip(STREAMS, (scored.genotype.encoder, scored.genotype.decoder), strict=True):
        same = len(rows) == len(history.epochs[-1].probabilities[stream])
        known = all(name in history.candidates[stream] for row in rows for name in row)
        _require(same and known, f"{key}.genotype.{stream}", "a path through the candidates of all blocks")


def _check_follows(epoch: SearchEpoch, key: str, before: SearchEpoch) -> None:
    _require(epoch.epoch > before.epoch, f"{key}.epoch", f"above {before.epoch}, the entry before")
    steps = before.architecture_steps
    _require(epoch.architecture_steps >= steps, f"{key}.architecture_steps", f"at least {steps}, as before")
    for stream, rows in before.probabilities.items():
        same = len(epoch.probabilities[stream]) == len(rows)
        _require(same, f"{key}.probabilities.{stream}", f"{len(rows)} blocks, as in the entry before")


def _require(fits: bool, key: str, wanted: str) -> None:
    if not fits:
        raise DataError(f"{key} must be {wanted}")
