"""VQA v2 as it lies on the disk: where its files are, its questions and annotations, the answers to learn.

Goyal et al., "Making the V in VQA Matter", CVPR 2017; the split "vg" is the Visual Genome questions that
the published code adds to train and val, in the same format without the two type keys.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mmnas.data.features import NpzFolders, RegionSource
from mmnas.data.packed import packed_at
from mmnas.errors import ConfigError, DataError
from mmnas.files import PathLike, is_text, read_json
from mmnas.schema import INT_LIMIT, shown
from mmnas.text.answers import normalise_for_vocabulary

SPLITS = ("train", "val", "test", "vg")
FEATURE_FOLDERS = ("train2014", "val2014", "test2015")

_QUESTIONS = {
    "train": "v2_OpenEnded_mscoco_train2014_questions.json",
    "val": "v2_OpenEnded_mscoco_val2014_questions.json",
    "test": "v2_OpenEnded_mscoco_test2015_questions.json",
    "vg": "VG_questions.json",
}
_ANNOTATIONS = {
    "train": "v2_mscoco_train2014_annotations.json",
    "val": "v2_mscoco_val2014_annotations.json",
    "vg": "VG_annotations.json",
}


@dataclass(frozen=True, slots=True)
class Question:
    """One question about one image."""

    question_id: int
    image_id: int
    text: str


@dataclass(frozen=True, slots=True)
class Annotation:
    """What the annotators (ten in VQA v2) answered; the types are "" where the file has none."""

    question_id: int
    image_id: int
    question_type: str
    answer_type: str
    multiple_choice_answer: str
    answers: tuple[str, ...]


def question_places(data_path: PathLike, split: str) -> list[Path]:
    """Return where the questions of `split` may lie, the preferred place first."""
    return _places(data_path, split, _QUESTIONS)


def annotation_places(data_path: PathLike, split: str) -> list[Path]:
    """Return where the annotations of `split` may lie; nowhere for test, which has none."""
    return _places(data_path, split, _ANNOTATIONS)


def find_questions(data_path: PathLike, split: str) -> Path | None:
    """Return the questions file of `split`, or None."""
    return next(filter(Path.is_file, question_places(data_path, split)), None)


def find_annotations(data_path: PathLike, split: str) -> Path | None:
    """Return the annotations file of `split`, or None."""
    return next(filter(Path.is_file, annotation_places(data_path, split)), None)


def require_questions(data_path: PathLike, split: str) -> Path:
    """Return the questions file of `split`; a missing one is a DataError that names every place."""
    found = find_questions(data_path, split)
    if found is None:
        raise DataError(_not_found(f"questions of {split}", question_places(data_path, split)))
    return found


def require_annotations(data_path: PathLike, split: str) -> Path:
    """Return the annotations file of `split`; a missing one is a DataError that names every place."""
    found = find_annotations(data_path, split)
    if found is not None:
        return found
    if split == "test":
        raise DataError("the split test has no public annotations: score its answers on the VQA server")
    raise DataError(_not_found(f"annotations of {split}", annotation_places(data_path, split)))


def require_annotated(data_path: PathLike, splits: Iterable[str]) -> None:
    """Raise a DataError that names the first missing file of annotated splits and counts the others."""
    missing = [
        _not_found(f"{kind} of {split}", places(data_path, split))
        for split in splits
        for kind, find, places in (
            ("questions", find_questions, question_places),
            ("annotations", find_annotations, annotation_places),
        )
        if find(data_path, split) is None
    ]
    if missing:
        more = f" ({len(missing) - 1} more files of the training split are missing)" if missing[1:] else ""
        raise DataError(missing[0] + more)


def find_feature_folders(data_path: PathLike, feat_path: PathLike | None = None) -> list[Path]:
    """Return those of `FEATURE_FOLDERS` that exist under `feat_path`, or else in the default places.

    A `feat_path` that is given is the only place looked at; none found is a DataError that names them.
    """
    data_path = Path(data_path)
    defaults = (data_path / "coco_extract", data_path / "vqa" / "bua-r101-max100")
    places = defaults if feat_path is None else (Path(feat_path),)
    for place in places:
        folders = [place / name for name in FEATURE_FOLDERS if (place / name).is_dir()]
        if folders:
            return folders
    names = ", ".join(FEATURE_FOLDERS)
    raise DataError(_not_found(f"folders of region features ({names})", places))


def question_features(data_path: PathLike, feat_path: PathLike | None, feature_size: int) -> RegionSource:
    """Return the packed store that `feat_path` names, or the features in the folders found."""
    store = packed_at(feat_path, feature_size)
    return NpzFolders(find_feature_folders(data_path, feat_path), feature_size) if store is None else store


def _places(data_path: PathLike, split: str, names: Mapping[str, str]) -> list[Path]:
    if split not in SPLITS:
        raise ConfigError(f"unknown VQA split {split!r}: choose one of {', '.join(SPLITS)}")
    if split not in names:
        return []
    folders = [Path(data_path, "vqa"), Path(data_path, "vqa", "annotations")]
    if split == "vg":
        folders.append(Path("datasets", "vqa"))
    return [folder / names[split] for folder in folders]


def _not_found(what: str, places: Iterable[Path]) -> str:
    return f"{what} not found: put them in one of these places: {', '.join(map(str, places))}"


def read_questions(path: PathLike) -> list[Question]:
    """Return the questions in `path`, in order; DataError names the file, the entry and the key."""
    return _read(path, "questions", _question)


def read_annotations(path: PathLike) -> list[Annotation]:
    """Return the annotations in `path`, in order; DataError names the file, the entry and the key.

    Without `multiple_choice_answer` the most frequent answer stands in, the first one among equals.
    """
    return _read(path, "annotations", _annotation)


_Record = TypeVar("_Record", Question, Annotation)


def _read(path: PathLike, key: str, parse: Callable[[Any], _Record]) -> list[_Record]:
    content = read_json(path, f"VQA {key} file")
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise DataError(f'{path} has no list "{key}" with entries at its top level: is it a VQA {key} file?')
    records: dict[int, _Record] = {}
    for position, entry in enumerate(entries):
        try:
            record = parse(entry)
            if record.question_id in records:
                raise DataError('"question_id" occurs a second time: remove one of the two')
        except DataError as problem:
            question = f" (question_id {shown(entry['question_id'])})" if _names_question(entry) else ""
            raise DataError(f"{path}, {key}[{position}]{question}: {problem}") from None
        records[record.question_id] = record
    return list(records.values())


def _names_question(entry: Any) -> bool:
    return isinstance(entry, dict) and "question_id" in entry


def _question(entry: Any) -> Question:
    question_id, image_id = _ids(entry)
    return Question(question_id, image_id, _text(entry, "question"))


def _annotation(entry: Any) -> Annotation:
    question_id, image_id = _ids(entry)
    answers = tuple([_text(answer, "answer") for answer in _field(entry, "answers", list)])
    if not answers:
        raise DataError('"answers" is empty: give at least one')
    if "multiple_choice_answer" in entry:
        usual = _text(entry, "multiple_choice_answer")
    else:
        usual = Counter(answers).most_common(1)[0][0]
    question_type, answer_type = (
        _text(entry, key) if key in entry else "" for key in ("question_type", "answer_type")
    )
    return Annotation(question_id, image_id, question_type, answer_type, usual, answers)


def _ids(entry: Any) -> tuple[int, int]:
    return _field(entry, "question_id", int), _field(entry, "image_id", int)


def _field(entry: Any, key: str, kind: type[Any]) -> Any:
    """Return `entry[key]`, which must be of the very type `kind`: true is no integer."""
    if type(entry) is not dict:
        raise DataError(f'must be an object with the key "{key}", not {shown(entry)}')
    if key not in entry:
        raise DataError(f'the key "{key}" is missing: the file is damaged or of another format')
    value = entry[key]
    if type(value) is not kind:
        wanted = {int: "an integer", str: "a string", list: "a list"}[kind]
        raise DataError(f'"{key}" must be {wanted}, not {shown(value)}')
    if kind is int and abs(value) >= INT_LIMIT:
        raise DataError(f'"{key}" must be an integer of 64 bits, not {shown(value)}')
    return value


def _text(entry: Any, key: str) -> str:
    """Return the string `entry[key]`; equal ones are one object, for train and val hold 6.5 M answers."""
    text = _field(entry, key, str)
    if not is_text(text):
        raise DataError(f'"{key}" holds half of a character (a lone surrogate)')
    return sys.intern(text)


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


def answer_vocabulary(annotations: Iterable[Annotation], min_count: int = 8) -> list[str]:
    """Return the normalised usual answers that occur more than `min_count` times, as first met.

    On train and val of VQA v2, in that order, these are 3129.
    """
    counts = Counter(normalise_for_vocabulary(entry.multiple_choice_answer) for entry in annotations)
    return [answer for answer, count in counts.items() if count > min_count]


def soft_targets(answers: Sequence[str], answer_index: Mapping[str, int]) -> dict[int, float]:
    """Return the score of each known answer, by its index: 0.3, 0.6, 0.9, then 1 for 4 or more annotators.

    Answers that are equal once normalised count together.
    """
    counts = Counter(map(normalise_for_vocabulary, answers))
    return {
        answer_index[answer]: min(count * 3, 10) / 10 for answer, count in counts.items() if answer in answer_index
    }
