"""The VQA v2 files of the world: questions of every split, annotations of train, val and Visual Genome.

Ten annotators answer each question. Most agree; one to three of them may use another word or be wrong,
so the most frequent answer is always the right one. Test answers are written nowhere.
"""

from pathlib import Path
from typing import Any

import numpy as np

from mmnas.demo.questions import Asked, ask
from mmnas.demo.scenes import COLORS, Scene, child, pick
from mmnas.files import write_json

QUESTIONS_PER_IMAGE = 24
GENOME_QUESTIONS_PER_IMAGE = 4

_ANNOTATORS = 10
_GENOME_NUMBERS = 500  # Visual Genome's questions of an image are numbered from here
_UNANIMOUS = 0.45  # share of questions
_OTHER_WORDS = {
    "1": ("one", "2"),
    "2": ("two", "1", "3"),
    "3": ("three", "2", "4"),
    "4": ("four", "3", "5"),
    "yes": ("no",),
    "no": ("yes",),
    "small": ("tiny", "little", "medium"),
    "medium": ("normal", "small", "large"),
    "large": ("big", "huge", "medium"),
    "ball": ("sphere", "round ball"),
    "cube": ("box", "block"),
    "cone": ("pyramid",),
    "ring": ("circle", "a ring"),
    "star": ("a star",),
    **{color: (f"dark {color}", *(other for other in COLORS if other != color)) for color in COLORS},
}
_INFO = {
    "info": {
        "description": "A demo world in the format of VQA v2.0.",
        "url": "http://visualqa.org",
        "version": "2.0",
        "year": 2017,
        "contributor": "demo world",
        "date_created": "2017-04-26 17:00:44",
    },
    "license": {"name": "Apache License 2.0", "url": "http://www.apache.org/licenses/LICENSE-2.0"},
}


def write_vqa_files(out: Path, scenes: list[Scene], seed: int) -> dict[str, list[str]]:
    """Write the question and annotation files below `out/vqa`; return the questions of each."""
    texts = {}
    for split in ("train2014", "val2014", "test2015"):
        asked = _ask_all(scenes, split, seed, "questions", QUESTIONS_PER_IMAGE, 0)
        _write_questions(out, f"v2_OpenEnded_mscoco_{split}", split, asked)
        if split == "test2015":
            _write_questions(out, "v2_OpenEnded_mscoco_test-dev2015", "test-dev2015", _of_every_other_image(asked))
        else:
            _write_annotations(out, f"v2_mscoco_{split}", split, _annotate(asked, seed))
        texts[f"{split} questions"] = _texts(asked)
    genome = _ask_all(scenes, "train2014", seed, "genome", GENOME_QUESTIONS_PER_IMAGE, _GENOME_NUMBERS)
    _write_questions(out, "VG", "train2014", genome)
    untyped = [_without_types(annotation) for annotation in _annotate(genome, seed)]
    _write_annotations(out, "VG", "train2014", untyped)
    return {**texts, "VG questions": _texts(genome)}


def ten_answers(answer: str, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return what ten annotators answer where `answer` is right: at least seven of them say so."""
    dissenters = 0 if rng.random() < _UNANIMOUS else int(rng.integers(1, 4))
    given = [answer] * (_ANNOTATORS - dissenters)
    given += [pick(_OTHER_WORDS[answer], rng) for _ in range(dissenters)]
    return [
        {
            "answer": given[i],
            "answer_confidence": "yes" if given[i] == answer else "maybe",
            "answer_id": place,
        }
        for place, i in enumerate(rng.permutation(_ANNOTATORS), start=1)
    ]


def _ask_all(
    scenes: list[Scene], split: str, seed: int, purpose: str, count: int, first_number: int
) -> list[tuple[int, int, Asked]]:
    """Return (question id, image id, question) of the split's scenes; ids as COCO has them: image, number."""
    return [
        (scene.image_id * 1000 + number, scene.image_id, question)
        for scene in scenes
        if scene.split == split
        for number, question in enumerate(ask(scene, count, seed, purpose), start=first_number)
    ]


def _texts(asked: list[tuple[int, int, Asked]]) -> list[str]:
    return [question.text for _, _, question in asked]


def _of_every_other_image(asked: list[tuple[int, int, Asked]]) -> list[tuple[int, int, Asked]]:
    kept = set(list(dict.fromkeys(image_id for _, image_id, _ in asked))[::2])
    return [row for row in asked if row[1] in kept]


def _annotate(asked: list[tuple[int, int, Asked]], seed: int) -> list[dict[str, Any]]:
    return [
        {
            "question_type": question.question_type,
            "multiple_choice_answer": question.answer,
            "answers": ten_answers(question.answer, child(seed, "annotators", question_id)),
            "image_id": image_id,
            "answer_type": question.answer_type,
            "question_id": question_id,
        }
        for question_id, image_id, question in asked
    ]


def _without_types(annotation: dict[str, Any]) -> dict[str, Any]:
    """Return the annotation as Visual Genome's file has it: without question and answer type."""
    return {key: value for key, value in annotation.items() if key not in ("question_type", "answer_type")}


def _write_questions(out: Path, name: str, subtype: str, asked: list[tuple[int, int, Asked]]) -> None:
    rows = [
        {"image_id": image_id, "question": question.text, "question_id": question_id}
        for question_id, image_id, question in asked
    ]
    head = {**_INFO, "task_type": "Open-Ended", "data_type": "mscoco", "data_subtype": subtype}
    write_json(out / "vqa" / f"{name}_questions.json", {**head, "questions": rows})


def _write_annotations(out: Path, name: str, subtype: str, annotations: list[dict[str, Any]]) -> None:
    head = {**_INFO, "data_type": "mscoco", "data_subtype": subtype}
    write_json(out / "vqa" / f"{name}_annotations.json", {**head, "annotations": annotations})
