"""`mmnas.load`: a trained model with its vocabulary and genotype, ready to be called on arrays."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mmnas.batch import collate
from mmnas.config import Config
from mmnas.engine.checkpoint import PublishedWeights, load_checkpoint, settings_of
from mmnas.engine.weights import network_with
from mmnas.errors import CheckpointError, DataError
from mmnas.files import PathLike
from mmnas.genotype import Genotype
from mmnas.models.network import MMNasNet
from mmnas.tasks import task_named
from mmnas.tasks.base import Record
from mmnas.text.tokenizer import tokenize
from mmnas.text.vocabulary import Vocabulary


class LoadedModel:
    """A network in evaluation mode and what gives its numbers meaning.

    `model` is the network, `vocabulary` its words, `vocabularies` all word lists of the task ("answers"
    for VQA), `genotype` and `config` what it was built from.
    """

    def __init__(self, model: MMNasNet, task, genotype: Genotype, config: Config) -> None:
        self.model = model
        self.task = task
        self.genotype = genotype
        self.config = config
        self.vocabularies: dict[str, list[str]] = task.vocabularies
        self.vocabulary = Vocabulary(task.vocabularies["tokens"])

    def __call__(
        self,
        texts: Sequence[str],
        features: Sequence[np.ndarray],
        boxes: Sequence[np.ndarray],
        image_sizes: Sequence[tuple[float, float]],
    ) -> np.ndarray | tuple[np.ndarray, ...]:
        """Run the network on pairs of a text and an image; return its head's output.

        Per pair: `features` (K, D) float32, `boxes` (K, 4) xyxy pixels, `image_sizes` height and width in
        pixels; K may differ. VQA returns logits (pairs, answers), matching (pairs, 1); grounding returns the
        scores of the regions (pairs, largest K) and their box offsets (pairs, largest K, 4), padded where K is
        smaller. Raises `DataError` on other shapes.
        """
        with torch.inference_mode():
            output = self.model(self._batch(texts, features, boxes, image_sizes))
        if isinstance(output, tuple):
            return tuple(_array(part) for part in output)
        return _array(output)

    def predict(self, texts, features, boxes, image_sizes) -> list[Record]:
        """Return what the task makes of the output, one record per pair.

        For VQA `{"index": 0, "answer": "yes"}`; for grounding `index`, `box`, `score` and the five `best`;
        for matching `index` and `probability`.
        """
        with torch.inference_mode():
            return self.task.predict(self.model, self._batch(texts, features, boxes, image_sizes))

    def _batch(self, texts, features, boxes, image_sizes) -> dict[str, torch.Tensor]:
        if not len(texts) == len(features) == len(boxes) == len(image_sizes) > 0:
            raise DataError("texts, features, boxes and image_sizes must be equally long, and not empty")
        rows = zip(texts, features, boxes, image_sizes, strict=True)
        batch = collate([self._sample(index, *row) for index, row in enumerate(rows)])
        device = next(self.model.parameters()).device
        return {name: tensor.to(device) for name, tensor in batch.items()}

    def _sample(self, index: int, text: str, features, boxes, image_size) -> dict[str, np.ndarray]:
        features, boxes = np.asarray(features, np.float32), np.asarray(boxes, np.float32)
        width = self.config.model.feature_size
        if features.ndim != 2 or features.shape[1] != width or boxes.shape != (len(features), 4) or not len(boxes):
            raise DataError(
                f"pair {index}: features are {features.shape} and boxes {boxes.shape}; "
                f"expected (K, {width}) and (K, 4) with K at least 1"
            )
        sizes = self.config.data
        return {
            "features": features[: sizes.max_regions],
            "boxes": boxes[: sizes.max_regions],
            "image_sizes": np.asarray(image_size, np.float32),
            "tokens": np.array(self.vocabulary.encode(tokenize(text), sizes.max_tokens), np.int64),
            "index": np.array(index, np.int64),
        }


def _array(output: torch.Tensor) -> np.ndarray:
    return output.float().cpu().numpy()


def load(checkpoint_path: PathLike, device: str = "cpu") -> LoadedModel:
    """Load a checkpoint that this project has written, onto `device`.

    Raises `CheckpointError` when it is missing, damaged, or a released one, which holds no vocabulary.
    """
    path = Path(checkpoint_path)
    checkpoint = load_checkpoint(path)
    if isinstance(checkpoint, PublishedWeights):
        raise CheckpointError(
            f"{path} holds released weights without a vocabulary: give it to --CKPT_PATH with its data, "
            "fine-tune or score, and load the checkpoint of that run"
        )
    if checkpoint.search:
        raise CheckpointError(f"{path} is of a search, which trains no network of its own: train what it has found")
    config, genotype = settings_of(path, checkpoint)
    task = task_named(config.task)(config)
    task.use_vocabularies(checkpoint.vocabularies)
    build = partial(task.build_model, genotype, pretrained_words=False)
    model = network_with(build, checkpoint, path, task.explain_misfit)
    return LoadedModel(model.eval().to(device), task, genotype, config)
