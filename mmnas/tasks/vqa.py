"""Visual question answering on VQA v2 (paper sections 3.3 and 4): data set, head, loss, score, check.

Letters: B batch, A answers.
"""

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from msgspec.structs import replace
from torch import Tensor, nn

from mmnas.batch import Batch
from mmnas.config import Config
from mmnas.data import vqa_json
from mmnas.data.features import RegionSource
from mmnas.data.named import question_files
from mmnas.data.own import OWN
from mmnas.data.questions import VQADataset
from mmnas.data.sources import FEATURE_FOLDERS, find_feature_folders, question_features
from mmnas.data.vqa_json import KINDS, Annotation, Question
from mmnas.errors import DataError
from mmnas.metrics.vqa_accuracy import EXACT, FORMS, vqa_accuracy
from mmnas.models.heads import FusionHead
from mmnas.tasks.base import Record, Result, Task
from mmnas.tasks.report import Report
from mmnas.tasks.result import take_scores
from mmnas.tasks.submission import find_faults
from mmnas.tasks.vqa_answers import answers_to_learn, check_targets, few_answers, is_exact, least_count
from mmnas.text.tokenizer import tokenize
from mmnas.text.vocabulary import Vocabulary, warn_missing

log = logging.getLogger(__name__)

PUBLISHED_ANSWERS = 3129
"""Answers of VQA v2 that occur more than eight times."""
PUBLISHED_REGIONS = (10, 100)
HALF_LIMITS = (-65504, 65504)
"""The largest numbers of float16, in which the logits of all answers are stored."""


class VQATask(Task):
    """Questions about images, scored by VQA accuracy."""

    name = "vqa"
    splits = ("train+val+vg", "train", "train+val")
    headline = "overall"
    vocabulary_names = ("tokens", "answers")
    flags = {"--DATASET": "data.dataset", "--METRIC": "data.metric"}
    choices = {"data.dataset": ("vqa2", OWN), "data.metric": ("vqa", EXACT)}
    free_keys = ("data.metric",)
    counted = {**Task.counted, "head.classifier": ("answers", "the annotation files")}

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.own, self._least = config.data.dataset == OWN, least_count(config.data)
        self.files = question_files(config.paths.data, config.data.dataset)
        self._parsed: dict[tuple[str, str], list[Any]] = {}  # kept from the vocabularies for the data sets

    @classmethod
    def settle(cls, config: Config) -> Config:
        """Complete the data set, and the least count of an answer, which own data does not need."""
        data = replace(config.data, dataset=config.data.dataset or cls.choices["data.dataset"][0])
        return super().settle(replace(config, data=replace(data, answer_min_count=least_count(data))))

    def build_vocabularies(self) -> dict[str, list[str]]:
        """Make words from the questions of all splits and answers from train and val, as published.

        A missing file is left out with a warning: the lists then differ from the published ones, and a
        checkpoint trained on them holds its own.
        """
        token_lists = (tokenize(question.text) for question in self._read_all("questions", self.files.splits))
        words = list(Vocabulary.from_token_lists(token_lists).words)
        annotations = self._read_all("annotations", self.files.answered)
        answers = answers_to_learn(annotations, self._least)
        return {"tokens": words, "answers": answers}

    def _read_all(self, kind: str, splits: Sequence[str]) -> Iterator[Any]:
        """Yield what the files of `splits` hold. Raises `DataError` naming their places if all are missing."""
        present = [split for split in splits if any(map(Path.is_file, self.files.places(kind, split)))]
        if not present:
            self.files.path(kind, splits[0])
        warn_missing(kind, [split for split in splits if split not in present])
        for split in present:
            records = self._read(kind, split)
            if split in (*self.config.split.split("+"), "val"):
                self._parsed[kind, split] = records
            yield from records

    def _read(self, kind: str, split: str) -> list[Any]:
        """Return what a file holds, parsed now unless it was kept; it is kept no longer."""
        return self._parsed.pop((kind, split), None) or self.files.read(kind, split)

    def training_set(self) -> VQADataset:
        """Join the files that --SPLIT names; VG counts as one of them."""
        splits = self.config.split.split("+")
        self.files.require(splits)
        parts = [self._read_annotated(split) for split in splits]
        questions, annotations = (list(itertools.chain.from_iterable(part)) for part in zip(*parts, strict=True))
        dataset = self._dataset(questions, "training questions")
        empty = dataset.set_targets(annotations, self.vocabularies["answers"])
        check_targets(empty, annotations, self.vocabularies["answers"])
        return dataset

    def evaluation_set(self, split: str) -> VQADataset:
        """Return val with its annotations, or test (test2015) without any."""
        annotated = self._read_annotated(split) if split == "val" else (self._read("questions", split), None)
        dataset = self._dataset(annotated[0], f"{split} questions")
        dataset.annotations = annotated[1]
        if annotated[1] and is_exact(annotated[1], self.config.data):
            log.info("%s is scored by exact match, not by VQA accuracy", split)
        return dataset

    def _read_annotated(self, split: str) -> tuple[list[Question], list[Annotation]]:
        """Return questions and, in their order, their annotations. Raises `DataError` unless they pair up."""
        questions, annotations = (self._read(kind, split) for kind in KINDS)
        if few := few_answers(annotations, split, self.config.data):
            log.warning("%s", few)
        self._check_pairs(questions, annotations, split)
        # Paired within the file: ids of VG are not those of VQA, and may collide with them.
        by_question = {annotation.question_id: annotation for annotation in annotations}
        return questions, [by_question[question.question_id] for question in questions]

    def _check_pairs(self, questions: list[Question], annotations: list[Annotation], split: str) -> None:
        vqa_json.check_pairs(questions, annotations, *(self.files.path(kind, split) for kind in KINDS))

    def _dataset(self, questions: list[Question], what: str) -> VQADataset:
        regions = self.require_features([question.image_id for question in questions], what)
        return VQADataset(questions, regions, self.words, self.config.data)

    def open_features(self) -> RegionSource:
        """Return the feature store or the folders that the paths name."""
        paths = self.config.paths
        return question_features(
            paths.data, paths.features, self.config.model.feature_size, self.config.data.dataset
        )

    def sources(self) -> list[Callable[[], object]]:
        """Return what looks for annotated questions, and for features."""
        splits = self.config.split.split("+")
        return [partial(self.files.require, splits), *super().sources()]

    def build_head(self, **sizes: Any) -> FusionHead:
        """Build the head with a logit per answer."""
        return FusionHead(outputs=len(self.vocabularies["answers"]), **sizes)

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Binary cross entropy against the soft targets, summed over batch and answers."""
        logits = model(batch)  # (B, A)
        total = F.binary_cross_entropy_with_logits(logits.float(), batch["answer_scores"], reduction="sum")
        return {"total": total}

    def predict(self, model: nn.Module, batch: Batch) -> list[Record]:
        """Take the answer with the highest logit."""
        logits = model(batch)  # (B, A)
        self.require_finite(batch, logits)
        best = logits.argmax(dim=-1)  # (B,)
        pairs = zip(batch["index"].tolist(), best.tolist(), strict=True)
        records = [{"index": index, "answer": self.vocabularies["answers"][answer]} for index, answer in pairs]
        return self.with_scores(records, logits.float().clamp(*HALF_LIMITS).half())

    def score(self, predictions: list[Record], dataset: VQADataset) -> Result:
        """VQA accuracy in percent, in both forms, the official one in the summary; or exact match, if configured.

        Raises `DataError` unless every question has one answer, of the vocabulary.
        """
        ids = dataset.question_ids.tolist()
        rows = [{"answer": entry["answer"], "question_id": ids[entry["index"]]} for entry in predictions]
        faults = find_faults(rows, ids, self.vocabularies["answers"])
        if faults:
            raise DataError("; ".join(faults))
        arrays = take_scores(predictions)
        if arrays:  # logits
            arrays["answers"] = np.array(self.vocabularies["answers"])
        if dataset.annotations is None:
            return Result(rows, {}, {}, arrays)
        answers = {row["question_id"]: row["answer"] for row in rows}
        forms = (EXACT,) if is_exact(dataset.annotations, self.config.data) else FORMS
        metrics = {form: vqa_accuracy(answers, dataset.annotations, form) for form in forms}
        shown, overall = metrics[forms[0]], {"overall": metrics[forms[0]]["overall"]}
        summary = overall | shown["answer_type"] | overall  # a type may be called "overall"
        return Result(rows, summary, metrics, arrays)

    def check(self, report: Report, full: bool) -> None:
        """Check questions, annotations, answers, features; val is needed to score, whatever is trained on."""
        paths, needed = self.config.paths, {*self.config.split.split("+"), "val"}
        report.title(f"files under {paths.data}")
        questions, annotations = (self._check_files(report, kind, needed) for kind in KINDS)
        report.title("questions")
        for split, asked in questions.items():
            report.count(f"questions of {split}", len(asked))
            if split in annotations:
                if few := few_answers(annotations[split], split, self.config.data):
                    report.problem(few, needed=False)
                with report.catching():
                    self._check_pairs(asked, annotations[split], split)
        report.title("vocabulary and targets")
        report.words((tokenize(question.text) for asked in questions.values() for question in asked), self.config)
        self._check_answers(report, annotations)
        report.title("region features")
        folder = Path(paths.features or Path(paths.data, "coco_extract"))
        with contextlib.suppress(DataError):
            folder = find_feature_folders(paths.data, paths.features)[0].parent
        for name in FEATURE_FOLDERS if not (folder.is_file() or self.own) else ():
            report.file(folder / name)
        images = {split: [question.image_id for question in asked] for split, asked in questions.items()}
        with report.catching():
            report.features(self.open_features(), images, needed, full, None if self.own else PUBLISHED_REGIONS)

    def _check_files(self, report: Report, kind: str, needed: set[str]) -> dict[str, list[Any]]:
        """Show where the files of one kind lie, or belong; return the content of the readable ones, by split."""
        found: dict[str, list[Any]] = {}
        for split in self.files.splits:
            places = self.files.places(kind, split)
            if places:
                present = report.file(next(filter(Path.is_file, places), places[0]))
                with report.catching(needed=present or split in needed):
                    found[split] = self._read(kind, split)
        return found

    def _check_answers(self, report: Report, annotations: dict[str, list[Annotation]]) -> None:
        """Show the answers to learn, and per split how many questions have none of them."""
        answers: list[str] = []
        with report.catching():
            entries = [entry for split in self.files.answered for entry in annotations.get(split, ())]
            answers = answers_to_learn(entries, self._least)
        report.count("answers", len(answers), None if self.own else PUBLISHED_ANSWERS)
        index = {answer: number for number, answer in enumerate(answers)}
        for split, entries in annotations.items():
            empty = sum(not vqa_json.soft_targets(entry.answers, index) for entry in entries)
            report.percentage(f"questions of {split} with an empty target", empty, len(entries))
