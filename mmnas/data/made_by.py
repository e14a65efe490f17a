"""Which detector and settings made region features: noted beside them, so that no run mixes different ones."""

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from mmnas.errors import DataError
from mmnas.files import read_json
from mmnas.schema import Text

MADE_BY_FILE = "detector.json"
"""In a folder of features: what made them."""


class Choice(Struct, frozen=True):
    """How many regions to keep: those whose best class has `threshold`, at least `least` and at most `most`."""

    least: int = 10
    most: int = 100
    threshold: float = 0.2


class MadeBy(Struct, frozen=True):
    """What decides about the features of an image; `detector` is the digest of the weights."""

    detector: Annotated[Text, Meta(max_length=64)]
    choice: Choice | None
    """None: at given boxes."""
    precision: Annotated[Text, Meta(max_length=16)]

    def __str__(self) -> str:
        boxes = "given boxes"
        if self.choice is not None:
            boxes = f"{self.choice.least} to {self.choice.most} regions at threshold {self.choice.threshold:g}"
        return f"detector {self.detector}, {boxes}, {self.precision}"

    def to_json(self) -> str:
        """Return the text that npz files hold under `detector`."""
        return msgspec.json.encode(self).decode()


def maker_of_folder(folder: Path) -> MadeBy | None:
    """Return what made the features in a folder; None where nothing is noted, as for downloaded ones."""
    path = folder / MADE_BY_FILE
    return read_json(path, "note of the detector", kind=MadeBy) if path.is_file() else None


def one_maker(known: MadeBy | None, other: MadeBy | None, name: object) -> MadeBy | None:
    """Return what made all features of a run, of which `name` are by `other`. Raises DataError for different ones.

    Features without a note go with any.
    """
    if known is None or other is None or known == other:
        return known or other
    raise DataError(
        f"{name} holds features of {other}, but others of this run are of {known}; they must not be mixed: "
        "keep them in different folders, and extract all of a run with one detector and the same settings"
    )
