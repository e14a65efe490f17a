"""Visual question answering on VQA v2 (paper sections 3.3 and 4): data set, head, loss, score, check.

Letters: B batch, A answers.
"""

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from mmnas.batch import Batch
from mmnas.config import DataConfig
from mmnas.data import vqa_json
from mmnas.data.features import RegionSource
from mmnas.data.ragged import Ragged
from mmnas.data.vqa_json import Annotation, Question
from mmnas.errors import DataError
from mmnas.metrics.vqa_accuracy import FORMS, vqa_accuracy
from mmnas.models.heads import FusionHead
from mmnas.tasks.base import Record, Result, Task, TextDataset, warn_missing
from mmnas.tasks.report import Report
from mmnas.tasks.submission import find_faults
from mmnas.text.tokenizer import tokenize
from mmnas.text.vocabulary import Vocabulary

log = logging.getLogger(__name__)

PUBLISHED_ANSWERS = 3129
"""Answers of VQA v2 that occur more than eight times."""
PUBLISHED_REGIONS = (10, 100)


class _Files(NamedTuple):
    """How one kind of file is looked for and read."""

    splits: tuple[str, ...]
    """Those that the vocabulary is made from."""
    candidates: Callable[..., list[Path]]
    find: Callable[..., Path | None]
    require: Callable[..., Path]
    read: Callable[..., list[Any]]


_FILES = {
    "questions": _Files(
        vqa_json.SPLITS,
        vqa_json.question_places,
        vqa_json.find_questions,
        vqa_json.require_questions,
        vqa_json.read_questions,
    ),
    "annotations": _Files(
        ("train", "val"),
        vqa_json.annotation_places,
        vqa_json.find_annotations,
        vqa_json.require_annotations,
        vqa_json.read_annotations,
    ),
}


class VQADataset(TextDataset):
    """Questions and their images' regions; soft targets (A,) for training, or annotations for scoring."""

    def __init__(
        self, questions: Sequence[Question], regions: RegionSource, words: Vocabulary, limits: DataConfig
    ) -> None:
        image_ids = [question.image_id for question in questions]
        super().__init__(image_ids, (tokenize(question.text) for question in questions), regions, words, limits)
        self.question_ids = np.array([question.question_id for question in questions], np.int64)
        self.annotations: Sequence[Annotation] | None = None
        self.targets: Ragged | None = None

    def set_targets(self, annotations: Sequence[Annotation], answers: Sequence[str]) -> int:
        """Keep the targets from annotations in the questions' order; return how many score none of `answers`."""
        index = {answer: number for number, answer in enumerate(answers)}
        soft = [vqa_json.soft_targets(annotation.answers, index) for annotation in annotations]
        self.answers = len(answers)
        self.targets = Ragged((target.keys() for target in soft), np.int32)
        self.scores = Ragged((target.values() for target in soft), np.float32)
        return sum(not target for target in soft)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        sample = super().__getitem__(index)
        if self.targets is not None:
            sample["answer_scores"] = np.zeros(self.answers, np.float32)
            sample["answer_scores"][self.targets[index]] = self.scores[index]
        return sample


class VQATask(Task):
    """Questions about images, scored by VQA accuracy."""

    name = "vqa"
    splits = ("train+val+vg", "train", "train+val")
    headline = "overall"
    vocabulary_names = ("tokens", "answers")

    def build_vocabularies(self) -> dict[str, list[str]]:
        """Make words from the questions of all splits and answers from train and val, as published.

        A missing file is left out with a warning: the lists then differ from the published ones, and a
        checkpoint trained on them holds its own.
        """
        questions, annotations = (itertools.chain.from_iterable(self._read_all(kind)) for kind in _FILES)
        words = Vocabulary.from_token_lists(tokenize(question.text) for question in questions).words
        answers = vqa_json.answer_vocabulary(annotations, self.config.data.answer_min_count)
        if not answers:
            raise DataError(self._no_answers())
        return {"tokens": list(words), "answers": answers}

    def _read_all(self, kind: str) -> Iterator[list[Any]]:
        """Yield the content of each file of `kind`. Raises `DataError` naming their places if there are none."""
        root, files = self.config.paths.data, _FILES[kind]
        paths = {split: files.find(root, split) for split in files.splits}
        missing = [split for split, path in paths.items() if path is None]
        if len(missing) == len(paths):
            files.require(root, missing[0])
        warn_missing(kind, missing)
        yield from (files.read(path) for path in paths.values() if path is not None)

    def _no_answers(self) -> str:
        least = self.config.data.answer_min_count
        return (
            f"no answer occurs more than {least} times in the annotations of train and val: "
            "lower data.answer_min_count by --CFG"
        )

    def training_set(self) -> VQADataset:
        """Join the files that --SPLIT names; VG counts as one of them."""
        splits = self.config.split.split("+")
        vqa_json.require_annotated(self.config.paths.data, splits)
        parts = [self._read_annotated(split) for split in splits]
        questions, annotations = (list(itertools.chain.from_iterable(part)) for part in zip(*parts, strict=True))
        dataset = self._dataset(questions, "training questions")
        empty = dataset.set_targets(annotations, self.vocabularies["answers"])
        log.info("%.2f %% of the training questions have an empty target", 100 * empty / len(dataset))
        return dataset

    def evaluation_set(self, split: str) -> VQADataset:
        """Return val with its annotations, or test (test2015) without any."""
        root, annotations = self.config.paths.data, None
        if split == "val":
            questions, annotations = self._read_annotated("val")
        else:
            questions = vqa_json.read_questions(vqa_json.require_questions(root, split))
        dataset = self._dataset(questions, f"{split} questions")
        dataset.annotations = annotations
        return dataset

    def _read_annotated(self, split: str) -> tuple[list[Question], list[Annotation]]:
        root = self.config.paths.data
        paths = [files.require(root, split) for files in _FILES.values()]
        questions, annotations = (files.read(path) for files, path in zip(_FILES.values(), paths, strict=True))
        vqa_json.check_pairs(questions, annotations, *paths)
        # Paired within the file: ids of VG are not those of VQA, and may collide with them.
        by_question = {annotation.question_id: annotation for annotation in annotations}
        return questions, [by_question[question.question_id] for question in questions]

    def _dataset(self, questions: list[Question], what: str) -> VQADataset:
        regions = self.require_features([question.image_id for question in questions], what)
        return VQADataset(questions, regions, self.words, self.config.data)

    def open_features(self) -> RegionSource:
        """Return the packed store or the folders that the paths name."""
        paths = self.config.paths
        return vqa_json.question_features(paths.data, paths.features, self.config.model.feature_size)

    def build_head(self, **sizes: Any) -> FusionHead:
        """Build the head with a logit per answer."""
        return FusionHead(outputs=len(self.vocabularies["answers"]), **sizes)

    def explain_misfit(self, parameter: str, found: tuple[int, ...], expected: tuple[int, ...]) -> str | None:
        """Explain another number of answers, too."""
        if parameter.startswith("head.classifier") and found[1:] == expected[1:]:
            return (
                f"was trained with {found[0]} answers, the data gives {expected[0]}: "
                "put the annotation files that it was trained with under --DATA_PATH"
            )
        return super().explain_misfit(parameter, found, expected)

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Binary cross entropy against the soft targets, summed over batch and answers."""
        logits = model(batch)  # (B, A)
        total = F.binary_cross_entropy_with_logits(logits.float(), batch["answer_scores"], reduction="sum")
        return {"total": total}

    def predict(self, model: nn.Module, batch: Batch) -> list[Record]:
        """Take the answer with the highest logit."""
        best = model(batch).argmax(dim=-1)  # (B, A) -> (B,)
        pairs = zip(batch["index"].tolist(), best.tolist(), strict=True)
        return [{"index": index, "answer": self.vocabularies["answers"][answer]} for index, answer in pairs]

    def score(self, predictions: list[Record], dataset: VQADataset) -> Result:
        """VQA accuracy in percent, in both forms; the summary shows the official one.

        Raises `DataError` unless every question has one answer, of the vocabulary.
        """
        ids = dataset.question_ids.tolist()
        rows = [{"answer": entry["answer"], "question_id": ids[entry["index"]]} for entry in predictions]
        faults = find_faults(rows, ids, self.vocabularies["answers"])
        if faults:
            raise DataError("; ".join(faults))
        if dataset.annotations is None:
            return Result(rows, {}, {})
        answers = {row["question_id"]: row["answer"] for row in rows}
        metrics = {form: vqa_accuracy(answers, dataset.annotations, form) for form in FORMS}
        official = metrics["official"]
        return Result(rows, {"overall": official["overall"], **official["answer_type"]}, metrics)

    def check(self, report: Report, full: bool) -> None:
        """Check questions, annotations, answers, features; val is needed to score, whatever is trained on."""
        root, needed = self.config.paths.data, {*self.config.split.split("+"), "val"}
        report.title(f"files under {root}")
        questions, annotations = (_check_files(report, root, files, needed) for files in _FILES.values())
        report.title("questions")
        for split, asked in questions.items():
            report.count(f"questions of {split}", len(asked))
            if split in annotations:
                paths = [files.require(root, split) for files in _FILES.values()]
                with report.catching():
                    vqa_json.check_pairs(asked, annotations[split], *paths)
        report.title("vocabulary and targets")
        report.words((tokenize(question.text) for asked in questions.values() for question in asked), self.config)
        self._check_answers(report, annotations)
        report.title("region features")
        folder = Path(self.config.paths.features or Path(root, "coco_extract"))
        with contextlib.suppress(DataError):
            folder = vqa_json.find_feature_folders(root, self.config.paths.features)[0].parent
        for name in vqa_json.FEATURE_FOLDERS if not folder.is_file() else ():
            report.file(folder / name)
        with report.catching(), self.hinting():
            images = {split: (question.image_id for question in asked) for split, asked in questions.items()}
            for _ in report.features(self.open_features(), images, needed, full, PUBLISHED_REGIONS):
                pass

    def _check_answers(self, report: Report, annotations: dict[str, list[Annotation]]) -> None:
        """Show the answers to learn, and per split how many questions have none of them."""
        counted = [entry for split in ("train", "val") for entry in annotations.get(split, ())]
        answers = vqa_json.answer_vocabulary(counted, self.config.data.answer_min_count)
        report.count("answers", len(answers), PUBLISHED_ANSWERS)
        if not answers:
            report.problem(self._no_answers())
        index = {answer: number for number, answer in enumerate(answers)}
        for split, entries in annotations.items():
            empty = sum(not vqa_json.soft_targets(entry.answers, index) for entry in entries)
            report.percentage(f"questions of {split} with an empty target", empty, len(entries))


def _check_files(report: Report, root: str, files: _Files, needed: set[str]) -> dict[str, list[Any]]:
    """Show where the files of one kind lie, or belong; return the content of the whole ones, by split."""
    found: dict[str, list[Any]] = {}
    for split in vqa_json.SPLITS:
        if candidates := files.candidates(root, split):
            path = files.find(root, split)
            report.file(path or candidates[0])
            with report.catching(needed=path is not None or split in needed):
                found[split] = files.read(files.require(root, split))
    return found
