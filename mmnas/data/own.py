"""One's own data: JSON lists of objects with image names, any split names, and ids that may be text.

`questions.json` holds questions, `{"id": "q1", "image": "cat.jpg", "question": "...", "answers": ["yes"], "split":
"train"}`, `expressions.json` referring expressions, with the `bbox` (x, y, width, height) that each means, and
`captions.json` captions, any number of them for an image. The features of an image are in `features/<image>.npz`.
"""

import functools
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from msgspec import Meta, Struct

from mmnas.data.features import ENDING, image_id_of
from mmnas.data.refs import Box, Expression
from mmnas.data.scan_precomp import Captions
from mmnas.data.vqa_json import Annotation, Question
from mmnas.errors import DataError, MissingData
from mmnas.files import Int64, PathLike, read_json
from mmnas.schema import Text, shown
from mmnas.text.tokenizer import tokenize

OWN = "custom"
"""The value of --DATASET."""
QUESTIONS, EXPRESSIONS, CAPTIONS = "questions.json", "expressions.json", "captions.json"
UNANSWERED = "test"
"""The split that needs no answers."""


class OwnImage(int):
    """The number of an image that remembers its name."""

    name: str

    def __new__(cls, name: str) -> "OwnImage":
        """Take the number from the name, see `own_image_id`."""
        image = super().__new__(cls, own_image_id(name))
        image.name = name
        return image

    def __reduce__(self) -> tuple:  # for workers that receive their data as pickles, as on macOS
        return OwnImage, (self.name,)

    def __str__(self) -> str:
        return self.name


def label(image_id: int) -> int | str:
    """Return what a result calls an image: its name in one's own data, else its number."""
    return getattr(image_id, "name", None) or int(image_id)


def own_image_id(name: str) -> int:
    """Return the number of an image: that in its name, or else one made from the name without folder and ending."""
    name = Path(name).name
    number = image_id_of(name)
    if number is not None:
        return number
    stem = re.sub(rf"{ENDING}\Z", "", name.removesuffix(".npz"), flags=re.I)  # of IMG.1.npz, IMG.1 and not IMG
    return int.from_bytes(hashlib.blake2b(stem.encode(), digest_size=7).digest(), "big")


class _Entry(Struct, forbid_unknown_fields=True, kw_only=True):
    image: Annotated[Text, Meta(min_length=1)]
    split: Annotated[Text, Meta(min_length=1)] = "train"
    id: Int64 | Text = ""


class _Question(_Entry, kw_only=True):
    question: str
    answers: list[str] = []
    answer: str | None = None


class _Expression(_Entry, kw_only=True):
    expression: str
    bbox: Box


class _Caption(_Entry, kw_only=True):
    caption: str


_Kind = TypeVar("_Kind", bound=_Entry)
_FILES: dict[str, tuple[str, type[_Entry]]] = {
    "vqa": (QUESTIONS, _Question),
    "vgd": (EXPRESSIONS, _Expression),
    "itm": (CAPTIONS, _Caption),
}


def _read(path: Path, kind: type[_Kind]) -> dict[str, list[_Kind]]:
    """Return the entries of a file by split, in order; those without an id get their position."""
    if not path.is_file():
        raise MissingData(f"{path} not found: --DATASET={OWN} reads it; docs/own-data.md describes it")
    status = path.stat()
    return _parsed(path, kind, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=1)  # a run asks for the splits, then for each of them
def _parsed(path: Path, kind: type[_Kind], *_stamp: int) -> dict[str, list[_Kind]]:
    layout = Annotated[list[kind], Meta(min_length=1)]  # type: ignore[valid-type]
    entries: list[Any] = read_json(path, "own data (docs/own-data.md)", kind=layout)
    splits: dict[str, list[_Kind]] = {}
    names: dict[int, str] = {}
    for index, entry in enumerate(entries):
        entry.id = index if entry.id == "" else entry.id
        splits.setdefault(entry.split, []).append(entry)
        other = names.setdefault(own_image_id(entry.image), entry.image)
        if other != entry.image:
            one = f"{path}: {shown(other)} and {shown(entry.image)} stand for one image"
            raise DataError(f"{one}: the number in a name, or the name without folder and ending, must differ")
    ids = Counter(entry.id for own in splits.values() for entry in own)
    if twice := [shown(name) for name, count in ids.items() if count > 1]:
        raise DataError(f"{path}: the id {twice[0]} occurs more than once; ids must differ over all splits")
    if len({type(name) for name in ids}) > 1:
        raise DataError(f"{path}: some ids are numbers and some are text: use one kind")
    return splits


def _entries(path: Path, splits: dict[str, list[_Kind]], split: str) -> list[_Kind]:
    if split not in splits:
        raise MissingData(f"{path} has no split {shown(split)}; it has {', '.join(map(shown, splits))}")
    return splits[split]


class OwnQuestions:
    """The questions of `questions.json`; used as `vqa_json.QuestionFiles` are."""

    def __init__(self, root: PathLike) -> None:
        self.file = Path(root, QUESTIONS)

    def _split(self, split: str) -> list[_Question]:
        return _entries(self.file, _read(self.file, _Question), split)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the file, in the order in which they appear."""
        return splits_of(self.file.parent, "vqa")

    @property
    def answered(self) -> tuple[str, ...]:
        """The splits whose answers enter the vocabulary."""
        return tuple(split for split in self.splits if split != UNANSWERED)

    def places(self, kind: str, split: str) -> list[Path]:
        """Return where the records of a split may lie."""
        return [] if (kind, split) == ("annotations", UNANSWERED) else [self.file]

    def path(self, kind: str, split: str) -> Path:
        """Return the file. Raises `MissingData` when it or the split is missing."""
        self._split(split)
        return self.file

    def read(self, kind: str, split: str) -> list[Any]:
        """Return the questions or the annotations of a split. Raises `DataError` for questions without answers."""
        entries, make = self._split(split), _question if kind == "questions" else _annotation
        try:
            return [make(entry) for entry in entries]
        except DataError as exception:
            raise DataError(f"{self.file}: {exception}") from None

    def require(self, splits: Iterable[str]) -> None:
        """Raise `MissingData` for the first of these splits that is missing."""
        for split in splits:
            self.path("annotations", split)


def _question(entry: _Question) -> Question:
    return Question(entry.id, OwnImage(entry.image), entry.question)  # type: ignore[arg-type]  # may be text


def _annotation(entry: _Question) -> Annotation:
    answers = tuple(entry.answers or ([] if entry.answer is None else [entry.answer]))
    if not any(map(str.strip, answers)):
        raise DataError(f"question {shown(entry.id)} has no answers; only those of {UNANSWERED} may have none")
    usual = entry.answer or Counter(answers).most_common(1)[0][0]
    return Annotation(entry.id, OwnImage(entry.image), "", "", usual, answers)  # type: ignore[arg-type]


def splits_of(root: PathLike, task: str) -> tuple[str, ...]:
    """Return the splits of the file that a task reads, in the order in which they appear."""
    name, kind = _FILES[task]
    return tuple(_read(Path(root, name), kind))


def require_splits(root: PathLike, task: str, splits: Iterable[str]) -> None:
    """Raise `MissingData` for the first of these splits that the file of a task lacks."""
    name, kind = _FILES[task]
    for split in splits:
        _entries(Path(root, name), _read(Path(root, name), kind), split)


def find_expressions(root: PathLike, splits: Iterable[str]) -> dict[str, list[Expression]]:
    """Return the expressions of those of `splits` that the file has. Raises `MissingData` for none."""
    path, splits = Path(root, EXPRESSIONS), list(splits)
    found = _read(path, _Expression)
    if not set(splits) & set(found):
        _entries(path, found, splits[0])
    try:
        return {split: [_expression(entry) for entry in found[split]] for split in splits if split in found}
    except ValueError as exception:
        raise DataError(f"{path}: {exception}") from None


def _expression(entry: _Expression) -> Expression:
    return Expression(OwnImage(entry.image), tokenize(entry.expression), entry.bbox, sent_id=entry.id)


def read_captions(root: PathLike, split: str) -> Captions:
    """Return splits of `captions.json`, joined by +, in the order of the images' names, or raise `MissingData`."""
    path = Path(root, CAPTIONS)
    found = _read(path, _Caption)
    entries = [entry for name in split.split("+") for entry in _entries(path, found, name)]
    entries.sort(key=lambda entry: entry.image)  # a stable order, so captions keep theirs
    groups = [list(group) for _, group in itertools.groupby(entries, key=lambda entry: entry.image)]
    owners = np.repeat(np.arange(len(groups)), list(map(len, groups)))
    images, ids = [OwnImage(group[0].image) for group in groups], [entry.id for entry in entries]
    return Captions(images, [entry.caption for entry in entries], owners, ids)


def caption_texts(root: PathLike) -> list[str]:
    """Return the captions of all splits."""
    return [entry.caption for own in _read(Path(root, CAPTIONS), _Caption).values() for entry in own]
