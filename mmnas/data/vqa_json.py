"""VQA v2: where its files lie, their questions and annotations, and the answers to learn.

Goyal et al., "Making the V in VQA Matter", CVPR 2017. The split "vg" holds the Visual Genome questions that the
published code adds to train and val, in the same format without the two type keys.
"""

import itertools
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from mmnas.errors import DataError, MissingData
from mmnas.files import Int64, PathLike, read_json, repeated_key
from mmnas.schema import describe_misfit, require_one_of
from mmnas.text.answers import normalize_for_vocabulary

# The files of questions and of annotations.
_FILES = {
    "train": ("v2_OpenEnded_mscoco_train2014_questions.json", "v2_mscoco_train2014_annotations.json"),
    "val": ("v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"),
    "test": ("v2_OpenEnded_mscoco_test2015_questions.json",),
    "vg": ("VG_questions.json", "VG_annotations.json"),
}
SPLITS = tuple(_FILES)
KINDS = ("questions", "annotations")
"""The kinds of files of a split."""
MIN_COUNT = 8
"""Answers that occur more often are the 3129 of VQA v2."""
_PART = 100  # entries decoded at a time


class Question(Struct, frozen=True, gc=False):
    """One question about one image."""

    question_id: Int64
    image_id: Int64
    text: str = msgspec.field(name="question")


class Annotation(Struct, frozen=True, gc=False):
    """The answers of the annotators (ten in VQA v2); the types are "" where the file has none."""

    question_id: int
    image_id: int
    question_type: str
    answer_type: str
    multiple_choice_answer: str
    answers: tuple[str, ...]


class _Answer(Struct, gc=False):
    answer: str


class _Entry(Struct, gc=False):
    """An annotation as the file has it."""

    question_id: Int64
    image_id: Int64
    answers: Annotated[list[_Answer], Meta(min_length=1)]
    question_type: str = ""
    answer_type: str = ""
    multiple_choice_answer: str | msgspec.UnsetType = msgspec.UNSET


def read_questions(path: PathLike) -> list[Question]:
    """Return the questions in `path`, in order. Raises DataError naming the file, the entry and the key."""
    return list(_read(path, "questions", Question))


def read_annotations(path: PathLike) -> list[Annotation]:
    """Return the annotations in `path`, in order. Raises DataError naming the file, the entry and the key.

    Without `multiple_choice_answer`, the most frequent answer takes its place, the first one among equals. Equal
    strings and equal tuples of answers are one object each: there are millions of them.
    """
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    annotations = []
    for entry in _read(path, "annotations", _Entry):
        answers = tuple([sys.intern(each.answer) for each in entry.answers])
        usual = entry.multiple_choice_answer
        if isinstance(usual, msgspec.UnsetType):
            usual = Counter(answers).most_common(1)[0][0]
        kinds = sys.intern(entry.question_type), sys.intern(entry.answer_type)
        answers = shared.setdefault(answers, answers)
        annotations.append(Annotation(entry.question_id, entry.image_id, *kinds, sys.intern(usual), answers))
    return annotations


_Record = TypeVar("_Record", Question, _Entry)


def _read(path: PathLike, key: str, kind: type[_Record]) -> Iterator[_Record]:
    """Yield the entries of the list `key`, decoded in parts, as a whole file of them takes too much memory."""
    layout = msgspec.defstruct("VQAFile", [(key, Annotated[list[Raw], Meta(min_length=1)])])
    raw = getattr(read_json(path, f"VQA {key} file", kind=layout), key)
    required = [f'"{each.encode_name}"'.encode() for each in msgspec.structs.fields(kind) if each.required]
    decoder = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]
    seen = set()
    for start in range(0, len(raw), _PART):
        part = b"[%s]" % b",".join(raw[start : start + _PART])
        try:
            entries: list[_Record] = decoder.decode(part)
        except msgspec.ValidationError as exception:
            text, found, inside = str(exception).partition("`$[")
            number, _, rest = inside.partition("]")
            message = f"{text}`$.{key}[{start + int(number)}]{rest}" if found else text
            raise DataError(f"{path}: {describe_misfit(msgspec.ValidationError(message))}") from None
        # Large files are not searched for repeated keys as a whole, and a part only if it looks like having one.
        suspect = max(map(part.count, required)) > len(entries)
        for index, entry in enumerate(entries, start):
            if suspect and (repeated := repeated_key(raw[index])) is not None:
                raise DataError(f"{path}: {key}[{index}] holds the key {repeated} twice: remove one")
            if entry.question_id in seen:
                raise DataError(
                    f"{path}: {key}[{index}].question_id: {entry.question_id} occurs a second time: remove one"
                )
            seen.add(entry.question_id)
            yield entry


def check_pairs(
    questions: Sequence[Question],
    annotations: Sequence[Annotation],
    questions_path: PathLike,
    annotations_path: PathLike,
) -> None:
    """Raise DataError unless each question has its annotation, on the same image, and the reverse."""
    asked = {question.question_id: question.image_id for question in questions}
    answered = {annotation.question_id: annotation.image_id for annotation in annotations}
    remedy = f"{questions_path} and {annotations_path} must be of the same split and release"
    for faulty, fault in (
        ([key for key in asked if key not in answered], "is in the questions file only"),
        ([key for key in answered if key not in asked], "is in the annotations file only"),
        ([key for key in asked if asked[key] != answered.get(key)], "is about another image in each file"),
    ):
        if faulty:
            raise DataError(f"question {faulty[0]} {fault} ({len(faulty)} such in all): {remedy}")


def answer_vocabulary(annotations: Iterable[Annotation], min_count: int = MIN_COUNT) -> tuple[list[str], float]:
    """Return the normalized usual answers that occur more than `min_count` times, in order of first appearance.

    On train and val of VQA v2, in that order, these are 3129. Beside them, the share of questions with a rarer one.
    """
    counts = Counter(normalize_for_vocabulary(entry.multiple_choice_answer) for entry in annotations)
    rare = sum(count for count in counts.values() if count <= min_count)
    return [answer for answer, count in counts.items() if count > min_count], rare / max(1, counts.total())


def soft_targets(answers: Sequence[str], answer_index: Mapping[str, int]) -> dict[int, float]:
    """Return the score of each known answer, by its index: 0.3, 0.6, 0.9, then 1 for 4 or more annotators.

    Answers that are equal once normalized count together.
    """
    counts: dict[str, int] = {}
    for answer in map(normalize_for_vocabulary, answers):  # a Counter takes longer for ten answers
        counts[answer] = counts.get(answer, 0) + 1
    return {
        answer_index[answer]: min(count * 3, 10) / 10 for answer, count in counts.items() if answer in answer_index
    }


class QuestionFiles:
    """The files of VQA v2 under a data root, of the kinds `KINDS`."""

    splits = SPLITS
    answered = ("train", "val")
    """The splits whose answers enter the vocabulary."""

    def __init__(self, root: PathLike) -> None:
        self.root = root

    def places(self, kind: str, split: str) -> list[Path]:
        """Return where the file of a split may lie, the preferred place first; none for annotations of test."""
        require_one_of("VQA split", split, SPLITS)
        folders = [Path(self.root, "vqa"), Path(self.root, "vqa", "annotations")]
        folders += [Path("datasets", "vqa")] if split == "vg" else []
        names = dict(zip(KINDS, _FILES[split], strict=False))
        return [folder / names[kind] for folder in folders if kind in names]

    def path(self, kind: str, split: str) -> Path:
        """Return the file of a split. Raises `MissingData` naming every place when it is missing."""
        places = self.places(kind, split)
        if not places:
            raise DataError(f"the split {split} has no public {kind}: score its answers on the VQA server")
        for path in filter(Path.is_file, places):
            return path
        where = ", ".join(map(str, places))
        raise MissingData(f"{kind} of {split} not found: put them in one of these places: {where}")

    def read(self, kind: str, split: str) -> list[Any]:
        """Return what the file of a split holds."""
        return (read_questions if kind == "questions" else read_annotations)(self.path(kind, split))

    def require(self, splits: Iterable[str]) -> None:
        """Raise `MissingData` naming the files of annotated splits that are missing."""
        missing = []
        for split, kind in itertools.product(splits, KINDS):
            try:
                self.path(kind, split)
            except MissingData as problem:
                missing.append(str(problem))
        if missing:
            raise MissingData("; ".join(missing))
