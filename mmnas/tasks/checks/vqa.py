"""The check of VQA v2: question and annotation files, answers, soft targets, region features."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmnas.config import Config
from mmnas.data import vqa_json
from mmnas.data.sources import FEATURE_FOLDERS, find_feature_folders, question_features
from mmnas.data.vqa_json import Annotation, Question
from mmnas.errors import DataError
from mmnas.tasks.checks.features import check_images, read_images
from mmnas.tasks.checks.report import Report
from mmnas.text.tokenizer import tokenize
from mmnas.text.vocabulary import Vocabulary

ANSWERS = 3129
"""Answers of VQA v2 that occur more than eight times."""
REGIONS = (10, 100)

_KINDS: Mapping[str, tuple[Callable[..., Any], ...]] = {
    "questions": (
        vqa_json.question_places, vqa_json.require_questions, vqa_json.read_questions,
    ),
    "annotations": (
        vqa_json.annotation_places, vqa_json.require_annotations,
        vqa_json.read_annotations,
    ),
}  # fmt: skip


def check_vqa(config: Config, report: Report, full: bool) -> None:
    """Check the files of VQA; val is needed whatever is trained on: it is scored where it is held out."""
    needed = {*config.split.split("+"), "val"}
    report.title(f"files under {config.paths.data}")
    questions, annotations = (_read(config, report, needed, kind) for kind in _KINDS)
    report.title("questions")
    for split, asked in questions.items():
        report.count(f"questions of {split}", len(asked))
    _check_pairs(config, report, questions, annotations)
    report.title("vocabulary and targets")
    report.words(list(Vocabulary.from_token_lists(_token_lists(questions)).words), config)
    _check_answers(config, report, annotations)
    report.title("region features")
    _check_features(config, report, questions, needed, full)


def _read(config: Config, report: Report, needed: set[str], kind: str) -> dict[str, list[Any]]:
    """Show where the files of one kind lie, or should, and return what the whole ones hold, by split."""
    places, require, read = _KINDS[kind]
    root = config.paths.data
    records: dict[str, list[Any]] = {}
    for split in vqa_json.SPLITS:
        if not places(root, split):
            continue
        path = next(filter(Path.is_file, places(root, split)), None)
        report.file(path or places(root, split)[0])
        with report.going_on(needed=path is not None or split in needed):
            records[split] = read(require(root, split))
    return records


def _check_pairs(
    config: Config,
    report: Report,
    questions: Mapping[str, Sequence[Question]],
    annotations: Mapping[str, Sequence[Annotation]],
) -> None:
    root = config.paths.data
    for split in questions.keys() & annotations.keys():
        paths = vqa_json.require_questions(root, split), vqa_json.require_annotations(root, split)
        with report.going_on():
            vqa_json.check_pairs(questions[split], annotations[split], *paths)


def _token_lists(questions: Mapping[str, Sequence[Question]]) -> Iterator[list[str]]:
    return (tokenize(question.text) for asked in questions.values() for question in asked)


def _check_answers(config: Config, report: Report, annotations: Mapping[str, Sequence[Annotation]]) -> None:
    """Show the answers to learn, and per split how many questions have none of them."""
    counted = [note for split in ("train", "val") for note in annotations.get(split, ())]
    answers = vqa_json.answer_vocabulary(counted, config.data.answer_min_count)
    report.count("answers", len(answers), ANSWERS)
    if not answers:
        report.problem(
            f"no answer occurs more than {config.data.answer_min_count} times in the annotations of train and val: "
            "lower data.answer_min_count by --CFG"
        )
    index = {answer: number for number, answer in enumerate(answers)}
    for split, notes in annotations.items():
        empty = sum(not vqa_json.soft_targets(note.answers, index) for note in notes)
        report.share(f"questions of {split} with an empty target", empty, len(notes))


def _check_features(
    config: Config, report: Report, questions: Mapping[str, Sequence[Question]], needed: set[str], full: bool
) -> None:
    paths = config.paths
    place = Path(paths.features or Path(paths.data, "coco_extract"))
    with contextlib.suppress(DataError):
        place = find_feature_folders(paths.data, paths.features)[0].parent
    for name in FEATURE_FOLDERS if not place.is_file() else ():
        report.file(place / name)
    with report.going_on():
        source = question_features(paths.data, paths.features, config.model.feature_size)
        images = {split: (question.image_id for question in asked) for split, asked in questions.items()}
        there = check_images(report, source, images, needed)
        for _ in read_images(report, source, there, full, REGIONS):
            pass
