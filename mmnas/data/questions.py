"""Samples for visual question answering: questions with their image, to train on or to score.

Letters: A answers.
"""

from collections.abc import Sequence

import numpy as np

from mmnas.config import DataConfig
from mmnas.data.features import RegionSource
from mmnas.data.ragged import Ragged
from mmnas.data.samples import TextDataset
from mmnas.data.vqa_json import Annotation, Question, soft_targets
from mmnas.text.tokenizer import tokenize
from mmnas.text.vocabulary import Vocabulary


class VQADataset(TextDataset):
    """Questions and their images' regions; soft targets (A,) for training, or annotations for scoring."""

    def __init__(
        self, questions: Sequence[Question], regions: RegionSource, words: Vocabulary, limits: DataConfig
    ) -> None:
        image_ids = [question.image_id for question in questions]
        super().__init__(image_ids, (tokenize(question.text) for question in questions), regions, words, limits)
        self.question_ids = np.array([question.question_id for question in questions])
        self.annotations: Sequence[Annotation] | None = None
        self.targets: Ragged | None = None

    def set_targets(self, annotations: Sequence[Annotation], answers: Sequence[str]) -> int:
        """Keep the targets from annotations in the questions' order; return how many score none of `answers`."""
        index = {answer: number for number, answer in enumerate(answers)}
        soft = [soft_targets(annotation.answers, index) for annotation in annotations]
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
