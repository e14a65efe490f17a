"""`mmnas.load`: a trained model with its vocabulary and genotype, ready to be called on arrays."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmnas.batch import Batch, collate
from mmnas.config import Config
from mmnas.data.features import Regions
from mmnas.engine.checkpoint import Checkpoint, settings_of
from mmnas.engine.weights import network_with
from mmnas.errors import DataError
from mmnas.files import PathLike
from mmnas.genotype import Genotype
from mmnas.models.cpu import use_cpu_kernels
from mmnas.models.network import MMNasNet
from mmnas.predict.released import complete
from mmnas.tasks import task_named
from mmnas.tasks.base import Record, Task
from mmnas.text.tokenizer import tokenize

Arrays = Sequence[np.ndarray]
ImageSizes = Sequence[tuple[float, float]]
Output = np.ndarray | tuple[np.ndarray, ...]


class LoadedModel:
    """A network in evaluation mode and what gives its numbers meaning.

    `model` is the network, `vocabulary` its words, `vocabularies` all word lists of the task ("answers"
    for VQA), `genotype` and `config` what it was built from.
    """

    def __init__(self, model: MMNasNet, task: Task, genotype: Genotype, config: Config) -> None:
        self.model, self.task, self.genotype, self.config = model, task, genotype, config
        self.vocabularies, self.vocabulary = task.vocabularies, task.words

    def __call__(self, texts: Sequence[str], features: Arrays, boxes: Arrays, image_sizes: ImageSizes) -> Output:
        """Run the network on pairs of a text and an image; return its head's output.

        Per pair: `features` (K, D) float32, `boxes` (K, 4) xyxy pixels, `image_sizes` height and width in
        pixels; K may differ. VQA returns logits (pairs, answers), matching (pairs, 1); grounding returns the
        scores of the regions (pairs, largest K) and their box offsets (pairs, largest K, 4), padded where K is
        smaller. Raises `DataError` on other shapes.
        """
        with torch.inference_mode():
            output = self.model(self._batch(texts, features, boxes, image_sizes))
        parts = [part.float().cpu().numpy() for part in (output if isinstance(output, tuple) else (output,))]
        return tuple(parts) if isinstance(output, tuple) else parts[0]

    def predict(
        self, texts: Sequence[str], features: Arrays, boxes: Arrays, image_sizes: ImageSizes
    ) -> list[Record]:
        """Return what the task makes of the output, one record per pair.

        For VQA `{"index": 0, "answer": "yes"}`; for grounding `index`, `box`, `score` and the five `best`;
        for matching `index` and `probability`.
        """
        with torch.inference_mode():
            return self.task.predict(self.model, self._batch(texts, features, boxes, image_sizes))

    def _batch(self, texts: Sequence[str], *images: Sequence[Any]) -> Batch:
        """Return the pairs as a batch on the network's device; `images` are features, boxes and sizes."""
        if not len(texts) or any(len(column) != len(texts) for column in images):
            raise DataError("texts, features, boxes and image_sizes must be equally long, and not empty")
        rows = zip(texts, *images, strict=True)
        batch = collate([self._sample(index, *row) for index, row in enumerate(rows)])
        device = next(self.model.parameters()).device
        return {name: tensor.to(device) for name, tensor in batch.items()}

    def _sample(self, index: int, text: str, *image: Any) -> dict[str, np.ndarray]:
        regions = Regions(*(np.asarray(array, np.float32) for array in image))
        width = self.config.model.feature_size
        count = len(regions.features) if regions.features.ndim else 0
        if not count or regions.features.shape != (count, width) or regions.boxes.shape != (count, 4):
            raise DataError(
                f"pair {index}: features are {regions.features.shape} and boxes {regions.boxes.shape}; "
                f"expected (K, {width}) and (K, 4) with K at least 1"
            )
        limits = self.config.data
        tokens = np.array(self.vocabulary.encode(tokenize(text), limits.max_tokens), np.int64)
        return {**regions.sample(limits.max_regions), "tokens": tokens, "index": np.array(index, np.int64)}


def load(checkpoint_path: PathLike, device: str = "cpu", vocabulary_from: PathLike | None = None) -> LoadedModel:
    """Load a checkpoint, or the folder of an exported model, onto `device`.

    `vocabulary_from` is for released weights: the data that they were trained on, of which the words are read.
    Raises `CheckpointError` when the file is missing or damaged, or holds released weights and no words are given.
    """
    path = Path(checkpoint_path)
    return model_of(path, complete(path, vocabulary_from), device)


def model_of(path: Path, checkpoint: Checkpoint, device: str = "cpu") -> LoadedModel:
    """Build the network of a checkpoint; `path` is for messages. Raises `CheckpointError` when anything misfits."""
    config, genotype = settings_of(path, checkpoint)
    task = task_named(config.task)(config)
    task.use_vocabularies(checkpoint.vocabularies)
    task.weights = str(path)
    build = partial(task.build_model, genotype, pretrained_words=False)
    model = network_with(build, checkpoint, path, task.explain_misfit)
    if torch.device(device).type == "cpu":
        use_cpu_kernels(model)
    return LoadedModel(model.eval().to(device), task, genotype, config)
