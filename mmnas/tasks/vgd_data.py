"""Samples for visual grounding: expressions with their image and the box that each means.

Letters: E expressions.
"""

from collections.abc import Sequence

import numpy as np

from mmnas.config import DataConfig
from mmnas.data.features import RegionSource
from mmnas.data.refs import Expression
from mmnas.data.samples import TextDataset
from mmnas.tasks.grounding_loss import grounding_targets
from mmnas.text.vocabulary import Vocabulary


class VGDDataset(TextDataset):
    """Expressions, their images' regions and reference boxes; with a `loss`, targets for training."""

    def __init__(
        self,
        expressions: Sequence[Expression],
        regions: RegionSource,
        words: Vocabulary,
        limits: DataConfig,
        loss: str | None = None,
    ) -> None:
        image_ids = [expression.image_id for expression in expressions]
        super().__init__(image_ids, (expression.tokens for expression in expressions), regions, words, limits)
        self.expressions = expressions if loss is None else ()  # a result lists them
        self.references = np.array([expression.box for expression in expressions], np.float32)  # (E, 4)
        self.loss = loss

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        sample = {**super().__getitem__(index), "reference": self.references[index]}
        if self.loss is not None:
            sample |= grounding_targets(sample["boxes"], sample["reference"], self.loss)
        return sample
