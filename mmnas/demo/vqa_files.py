"""The VQA v2 files of the world: questions for every split, annotations for train, val and Visual Genome.

Ten annotators answer each question. Most agree; up to three of them use another word or are wrong, so that the most
frequent answer is always the correct one. No file has the answers of the test split.
"""

from pathlib import Path
from typing import Any

import numpy as np

from mmnas.demo.questions import Question, ask
from mmnas.demo.scenes import COLORS, INFO, LICENSE, SPLITS, Scene, child, pick
from mmnas.files import write_json

QUESTIONS_PER_IMAGE = 24
GENOME_QUESTIONS_PER_IMAGE = 4

_FIRST_GENOME_NUMBER = 500  # of an image's questions from Visual Genome
_UNANIMOUS = 0.45  # fraction of the questions
# What annotators answer instead: other words for the answer, and wrong ones.
_NUMBERS = {"1": "one, 2", "2": "two, 1, 3", "3": "three, 2, 4", "4": "four, 3, 5"}
_SIZES = {"small": "tiny, little, medium", "medium": "normal, small, large", "large": "big, huge, medium"}
_SHAPES = {"ball": "sphere", "cube": "box, block", "cone": "pyramid", "ring": "circle, a ring", "star": "a star"}
_COLORS = {color: ", ".join([f"dark {color}", *(other for other in COLORS if other != color)]) for color in COLORS}
_OTHER_ANSWERS = {"yes": "no", "no": "yes", **_NUMBERS, **_SIZES, **_SHAPES, **_COLORS}
_HEAD = {"info": INFO, "license": LICENSE, "data_type": "mscoco"}

Questions = dict[int, Question]  # by question id: the image id times 1000, plus a number


def write_vqa_files(out: Path, scenes: list[Scene], seed: int) -> dict[str, list[str]]:
    """Write the question and annotation files to `out/vqa`; return the texts of the questions by split."""
    asked = {split: _ask_all(scenes, split, seed, "questions", QUESTIONS_PER_IMAGE) for split in SPLITS}
    genome = _ask_all(scenes, "train2014", seed, "genome", GENOME_QUESTIONS_PER_IMAGE, _FIRST_GENOME_NUMBER)
    test_images = [scene.image_id for scene in scenes if scene.split == "test2015"]
    test_dev = {key: question for key, question in asked["test2015"].items() if key // 1000 in test_images[::2]}
    for split, questions in {**asked, "test-dev2015": test_dev}.items():
        _write_questions(out, f"v2_OpenEnded_mscoco_{split}", split, questions)
    for split in ("train2014", "val2014"):
        _write_annotations(out, f"v2_mscoco_{split}", split, asked[split], seed)
    _write_questions(out, "VG", "train2014", genome)
    _write_annotations(out, "VG", "train2014", genome, seed)
    named = {**asked, "VG": genome}.items()
    return {f"{name} questions": [question.text for question in questions.values()] for name, questions in named}


def _ask_all(scenes: list[Scene], split: str, seed: int, purpose: str, count: int, first: int = 0) -> Questions:
    return {
        scene.image_id * 1000 + number: question
        for scene in scenes
        if scene.split == split
        for number, question in enumerate(ask(scene, count, seed, purpose), start=first)
    }


def _ids(question_id: int) -> dict[str, int]:
    return {"image_id": question_id // 1000, "question_id": question_id}


def _write_questions(out: Path, name: str, subtype: str, questions: Questions) -> None:
    head = {**_HEAD, "data_subtype": subtype, "task_type": "Open-Ended"}
    rows = [{"question": question.text, **_ids(key)} for key, question in questions.items()]
    write_json(out / "vqa" / f"{name}_questions.json", {**head, "questions": rows})


def _write_annotations(out: Path, name: str, subtype: str, questions: Questions, seed: int) -> None:
    """Write the annotations of `questions`; Visual Genome's lack the types of questions and answers."""
    rows: list[dict[str, Any]] = []
    for key, question in questions.items():
        answers = _ten_answers(question.answer, child(seed, "annotators", key))
        types = {"question_type": question.question_type, "answer_type": question.answer_type}
        given = {"multiple_choice_answer": question.answer, "answers": answers}
        rows.append({**_ids(key), **given, **({} if name == "VG" else types)})
    head = {**_HEAD, "data_subtype": subtype}
    write_json(out / "vqa" / f"{name}_annotations.json", {**head, "annotations": rows})


def _ten_answers(answer: str, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return the answers of ten annotators, at least seven of which are `answer`."""
    dissenters = 0 if rng.random() < _UNANIMOUS else int(rng.integers(1, 4))
    others = _OTHER_ANSWERS[answer].split(", ")
    given = [answer] * (10 - dissenters) + [pick(others, rng) for _ in range(dissenters)]
    return [
        {"answer": given[i], "answer_confidence": "yes" if given[i] == answer else "maybe", "answer_id": answer_id}
        for answer_id, i in enumerate(rng.permutation(10), start=1)
    ]
