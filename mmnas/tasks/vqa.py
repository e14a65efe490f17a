"""Visual question answering on VQA v2 (paper sections 3.3 and 4): data set, head, loss, evaluation.

Letters: B batch, A answers.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from mmnas.batch import Batch
from mmnas.config import Config
from mmnas.data import vqa_json
from mmnas.data.features import RegionSource, require_images
from mmnas.data.packed import region_counts
from mmnas.data.ragged import Ragged
from mmnas.data.vqa_json import Annotation, Question
from mmnas.errors import DataError
from mmnas.genotype import Genotype
from mmnas.metrics.vqa_accuracy import FORMS, vqa_accuracy
from mmnas.models.heads import FusionHead
from mmnas.models.network import MMNasNet
from mmnas.tasks.base import Record, Result, Task
from mmnas.tasks.network import head_sizes, network_of
from mmnas.tasks.submission import check_submission
from mmnas.text.tokenizer import tokenize
from mmnas.text.vocabulary import Vocabulary

log = logging.getLogger(__name__)


class VQADataset(Dataset):
    """Questions, their images' regions and, with annotations in the questions' order, soft targets (A,)."""

    def __init__(
        self,
        questions: Sequence[Question],
        annotations: Sequence[Annotation] | None,
        regions: RegionSource,
        words: Vocabulary,
        answers: Sequence[str],
        max_tokens: int,
        max_regions: int,
    ) -> None:
        self.regions = regions
        self.max_regions = max_regions
        self.answers = len(answers)
        self.image_ids = np.array([question.image_id for question in questions], np.int64)
        self.tokens = Ragged(
            (words.encode(tokenize(question.text), max_tokens) for question in questions), np.int32
        )
        self.targets = None
        if annotations is not None:
            index = {answer: number for number, answer in enumerate(answers)}
            soft = [vqa_json.soft_targets(annotation.answers, index) for annotation in annotations]
            self.targets = Ragged((target.keys() for target in soft), np.int32)
            self.scores = Ragged((target.values() for target in soft), np.float32)

    def __len__(self) -> int:
        return len(self.image_ids)

    def empty_targets(self) -> int:
        """Return how many samples have no answer of the vocabulary to learn."""
        return 0 if self.targets is None else int((self.targets.lengths() == 0).sum())

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        image = self.regions[int(self.image_ids[index])]
        sample = {
            "features": image.features[: self.max_regions],
            "boxes": image.boxes[: self.max_regions],
            "image_sizes": image.image_size,
            "tokens": self.tokens[index].astype(np.int64),
            "index": np.array(index, np.int64),
        }
        if self.targets is not None:
            sample["answer_scores"] = np.zeros(self.answers, np.float32)
            sample["answer_scores"][self.targets[index]] = self.scores[index]
        return sample

    def region_counts(self) -> np.ndarray | None:
        """Return the regions of each sample where the source knows them, see `region_counts` of packed stores."""
        return region_counts(self.regions, self.image_ids, self.max_regions)


class VQATask(Task):
    """Questions about images, scored by VQA accuracy."""

    name = "vqa"
    splits = ("train+val+vg", "train", "train+val")
    headline = "overall"
    vocabulary_names = ("tokens", "answers")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._scored: dict[str, tuple[list[int], list[Annotation] | None]] = {}  # per split: ids, references

    def build_vocabularies(self) -> dict[str, list[str]]:
        """Make words from the questions of all splits and answers from train and val, as published.

        A file of a split that is not there is left out with a warning: the lists then differ from the
        published ones, and a checkpoint trained on them holds its own.
        """
        texts = [question.text for path in self._present("questions") for question in vqa_json.read_questions(path)]
        annotated = [note for path in self._present("annotations") for note in vqa_json.read_annotations(path)]
        answers = vqa_json.answer_vocabulary(annotated, self.config.data.answer_min_count)
        if not answers:
            raise DataError(
                f"no answer occurs more than {self.config.data.answer_min_count} times in the annotations; "
                "lower data.answer_min_count by --CFG"
            )
        return {"tokens": list(Vocabulary.from_token_lists(map(tokenize, texts)).words), "answers": answers}

    def _present(self, kind: str) -> list[Path]:
        """Return the files of `kind` that are there; not one of them is an error that names the places."""
        root = self.config.paths.data
        splits = vqa_json.SPLITS if kind == "questions" else ("train", "val")
        find = vqa_json.find_questions if kind == "questions" else vqa_json.find_annotations
        require = vqa_json.require_questions if kind == "questions" else vqa_json.require_annotations
        paths = {split: find(root, split) for split in splits}
        absent = [split for split, path in paths.items() if path is None]
        if len(absent) == len(splits):
            require(root, splits[0])
        if absent:
            log.warning("no %s of %s: the vocabulary differs from the published one", kind, ", ".join(absent))
        return [path for path in paths.values() if path is not None]

    def training_set(self) -> VQADataset:
        """Join the files that --SPLIT names; VG counts as one of them."""
        questions: list[Question] = []
        annotations: list[Annotation] = []
        splits = self.config.split.split("+")
        vqa_json.require_annotated(self.config.paths.data, splits)
        for split in splits:
            read, notes = self._read_annotated(split)
            questions += read
            annotations += notes
        dataset = self._dataset(questions, annotations, "training questions")
        share = 100 * dataset.empty_targets() / len(dataset)
        log.info("%.2f %% of the training questions have an empty target", share)
        return dataset

    def evaluation_set(self, split: str) -> VQADataset:
        """Return val with its annotations, or test (test2015) without any."""
        if split == "val":
            questions, annotations = self._read_annotated("val")
        else:
            questions = vqa_json.read_questions(vqa_json.require_questions(self.config.paths.data, split))
            annotations = None
        self._scored[split] = [question.question_id for question in questions], annotations
        return self._dataset(questions, None, f"{split} questions")

    def _read_annotated(self, split: str) -> tuple[list[Question], list[Annotation]]:
        root = self.config.paths.data
        questions_path = vqa_json.require_questions(root, split)
        annotations_path = vqa_json.require_annotations(root, split)
        questions, annotations = (
            vqa_json.read_questions(questions_path),
            vqa_json.read_annotations(annotations_path),
        )
        vqa_json.check_pairs(questions, annotations, questions_path, annotations_path)
        # Paired within the file: ids of VG are not those of VQA, and may collide with them.
        by_question = {annotation.question_id: annotation for annotation in annotations}
        return questions, [by_question[question.question_id] for question in questions]

    def _dataset(self, questions, annotations, what: str) -> VQADataset:
        paths, sizes = self.config.paths, self.config.data
        regions = vqa_json.question_features(paths.data, paths.features, self.config.model.feature_size)
        require_images(regions, (question.image_id for question in questions), what)
        words = Vocabulary(self.vocabularies["tokens"])
        answers = self.vocabularies["answers"]
        return VQADataset(questions, annotations, regions, words, answers, sizes.max_tokens, sizes.max_regions)

    def build_model(self, genotype: Genotype, pretrained_words: bool) -> MMNasNet:
        """Build the network with a logit per answer."""
        head = FusionHead(outputs=len(self.vocabularies["answers"]), **head_sizes(self.config))
        return network_of(self.config, genotype, head, self.vocabularies["tokens"], pretrained_words)

    def explain_misfit(self, parameter: str, found: tuple[int, ...], expected: tuple[int, ...]) -> str | None:
        """Name the numbers of answers when these differ."""
        if parameter.startswith("head.classifier") and found[1:] == expected[1:]:
            return (
                f"it was trained with {found[0]} answers, the data gives {expected[0]}: "
                "put the annotation files that it was trained with under --DATA_PATH"
            )
        return super().explain_misfit(parameter, found, expected)

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """Binary cross entropy against the soft targets, summed over batch and answers."""
        logits = model(batch)  # (B, A)
        total = F.binary_cross_entropy_with_logits(logits.float(), batch["answer_scores"], reduction="sum")
        return {"total": total}

    def predict(self, model: nn.Module, batch: Batch) -> list[Record]:
        """Take the answer with the highest logit."""
        best = model(batch).argmax(dim=-1)  # (B, A) -> (B,)
        pairs = zip(batch["index"].tolist(), best.tolist(), strict=True)
        return [{"index": index, "answer": self.vocabularies["answers"][answer]} for index, answer in pairs]

    def score(self, records: list[Record], split: str) -> Result:
        """VQA accuracy in percent, in both forms; the summary shows the official one."""
        question_ids, annotations = self._scored[split]
        answers = {question_ids[record["index"]]: record["answer"] for record in records}
        predictions = [{"answer": answer, "question_id": question_id} for question_id, answer in answers.items()]
        if annotations is None:
            return Result(predictions, {}, {})
        metrics = {form: vqa_accuracy(answers, annotations, form) for form in FORMS}
        official = metrics["official"]
        return Result(predictions, {"overall": official["overall"], **official["answer_type"]}, metrics)

    def check_result(self, path: Path, split: str) -> None:
        """Raise DataError unless every question of `split` has one answer in the file, of the vocabulary."""
        faults = check_submission(path, self._scored[split][0], self.vocabularies["answers"])
        if faults:
            raise DataError("; ".join(faults))
