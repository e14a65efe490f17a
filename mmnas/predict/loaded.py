"""`mmnas.load`: a trained model, or several, with vocabulary and genotype, ready to be asked."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, cast

import numpy as np
import torch

from mmnas.batch import Batch, collate
from mmnas.config import Config
from mmnas.data.features import Regions
from mmnas.errors import CheckpointError, ConfigError, DataError, MMNasError, one_line
from mmnas.files import PathLike
from mmnas.genotype import Genotype
from mmnas.models.network import MMNasNet
from mmnas.predict.attention import POOLINGS, keeping_attention, pooling_weights
from mmnas.predict.inputs import ImageInput, Inputs, name_of
from mmnas.predict.networks import complete, network_of
from mmnas.predict.outputs import READERS
from mmnas.predict.predictions import Failure, Prediction
from mmnas.schema import shown
from mmnas.tasks.base import Task
from mmnas.text.tokenizer import tokenize

Arrays = Sequence[np.ndarray]
ImageSizes = Sequence[tuple[float, float]]
Output = np.ndarray | tuple[np.ndarray, ...]
_BOXES = {"vqa": (10, 100), "vgd": (100, 100), "itm": (36, 36)}  # that a detector finds, at least and at most
_AT_A_TIME = 32


@dataclass(frozen=True)
class Pair:
    """An image that can be called `name`, and the words of a text."""

    name: str
    regions: Regions
    text: str
    words: tuple[str, ...]


class LoadedModel:
    """A network in evaluation mode and what gives its numbers meaning.

    `model` is the network, `vocabulary` its words, `vocabularies` all word lists of the task ("answers"
    for VQA), `genotype` and `config` what it was built from. Of several checkpoints, these are the first one's;
    `models` are all networks, and predictions are the mean of theirs.
    """

    def __init__(
        self, models: Sequence[MMNasNet], task: Task, genotype: Genotype, config: Config, inputs: Inputs
    ) -> None:
        self.models, self.model, self.task, self.genotype = models, models[0], task, genotype
        self.config, self.inputs = config, inputs
        self.vocabularies, self.vocabulary = task.vocabularies, task.words
        self._lock = Lock()  # networks keep what they attend to for a moment

    def __call__(self, texts: Sequence[str], features: Arrays, boxes: Arrays, image_sizes: ImageSizes) -> Output:
        """Run the network on pairs of a text and an image; return its head's output.

        Per pair: `features` (K, D) float32, `boxes` (K, 4) xyxy pixels, `image_sizes` height and width in
        pixels; K may differ. VQA returns logits (pairs, answers), matching (pairs, 1); grounding returns the
        scores of the regions (pairs, largest K) and their box offsets (pairs, largest K, 4), padded where K is
        smaller. Raises `DataError` on other shapes.
        """
        columns = (features, boxes, image_sizes)
        if not len(texts) or any(len(column) != len(texts) for column in columns):
            raise DataError("texts, features, boxes and image_sizes must be equally long, and not empty")
        images = [Regions(*(np.asarray(array, np.float32) for array in row)) for row in zip(*columns, strict=True)]
        named = enumerate(zip(images, texts, strict=True))
        with torch.inference_mode():
            output = self.model(self._batch([self._pair(*row, f"pair {index}") for index, row in named]))
        parts = [part.float().cpu().numpy() for part in (output if isinstance(output, tuple) else (output,))]
        return tuple(parts) if isinstance(output, tuple) else parts[0]

    def predict(
        self,
        images: ImageInput | Sequence[ImageInput],
        texts: str | Sequence[str],
        top: int = 5,
        attention: bool = False,
    ) -> list[Any]:
        """Return an `Answers`, `Grounding` or `Match` for each image with its text.

        An image is a file or a Pillow image, which need a detector, or features: an .npz file, `Regions`, or a
        tuple of features (K, D), boxes (K, 4) and (height, width). A single one, or a single text, goes with all.
        `top` limits answers and boxes. `attention` adds the attention of every block. Raises `DataError` naming
        the first pair that cannot be answered.
        """
        rows: list[Any] = images if isinstance(images, list) else [images]
        asked = [texts] * len(rows) if isinstance(texts, str) else list(texts)
        rows = rows * len(asked) if len(rows) == 1 else rows
        if len(rows) != len(asked):
            raise DataError(f"{len(rows)} images and {len(asked)} texts: give as many of both, or one of either")
        results = []
        for result in self.predict_each(zip(rows, asked, strict=True), top, attention):
            if isinstance(result, Failure):
                raise DataError(f"{result.image}, {shown(result.text)}: {result.reason}")
            results.append(result)
        return results

    def predict_each(
        self, pairs: Iterable[tuple[ImageInput, str]], top: int = 5, attention: bool = False
    ) -> Iterator[Prediction | Failure]:
        """Yield a prediction for each pair in turn; a `Failure` where that is impossible, which stops nothing."""
        if self.task.name not in READERS:
            raise ConfigError(f"predictions of the task {self.task.name} are unknown; call the model on arrays")
        if top < 1:
            raise ConfigError(f"top={top}: ask for at least 1 answer")
        if attention and len(self.models) > 1:
            raise ConfigError("the attention of blocks is that of one checkpoint: name one")
        at_a_time = 1 if attention or self.inputs.detector else _AT_A_TIME
        prepared = self._prepared(pairs)
        while chunk := list(islice(prepared, at_a_time)):
            results = iter(self._answered([each for each in chunk if isinstance(each, Pair)], top, attention))
            yield from (next(results) if isinstance(each, Pair) else each for each in chunk)

    def _prepared(self, pairs: Iterable[tuple[ImageInput, str]]) -> Iterator[Pair | Failure]:
        held, regions = None, None
        for number, (image, text) in enumerate(pairs, start=1):
            name = name_of(image, number)
            try:
                if regions is None or image is not held:  # several texts about one image often come together
                    held, regions = image, self.inputs.regions(image, name)
                yield self._pair(regions, text, name, wordless=False)
            except (MMNasError, OSError) as exception:
                regions = None
                yield Failure(name, text, one_line(exception).removeprefix(f"{name}: "))

    def _answered(self, pairs: list[Pair], top: int, attention: bool) -> list[Prediction | Failure]:
        """Answer pairs together, or one by one if something is wrong with one of them."""
        try:
            return [*self._forward(pairs, top, attention)] if pairs else []
        except DataError as exception:
            if len(pairs) == 1:
                return [Failure(pairs[0].name, pairs[0].text, str(exception))]
            return [result for pair in pairs for result in self._answered([pair], top, attention)]

    def _forward(self, pairs: list[Pair], top: int, attention: bool) -> Iterator[Prediction]:
        batch = self._batch(pairs)
        with self._lock, torch.inference_mode(), ExitStack() as stack:
            kept = [stack.enter_context(keeping_attention(model, attention)) for model in self.models]
            outputs = [model(batch) for model in self.models]
        kind, read = READERS[self.task.name]
        weights = {}
        for name, mask in POOLINGS.items():
            if name in kept[0]:
                each = torch.stack([pooling_weights(one[name], batch[mask]) for one in kept])
                weights[name] = each.mean(dim=0).cpu().numpy()
        maps = {name: kept[0][name].cpu().numpy() for name in kept[0] if name not in POOLINGS}
        for row, (pair, fields) in enumerate(zip(pairs, read(self.task, batch, outputs, top), strict=True)):
            counts = {"word_weights": len(pair.words), "region_weights": len(pair.regions.boxes)}
            pooled = zip(counts.items(), weights.values(), strict=False)
            fields = {name: values[row, :count] for (name, count), values in pooled} | fields
            blocks = {name: values[row] for name, values in maps.items()}
            yield kind(pair.name, pair.text, pair.words, pair.regions, attention=blocks, **fields)

    def _pair(self, regions: Regions, text: str, name: str, wordless: bool = True) -> Pair:
        """Cut a text and regions to what the network reads. Raises `DataError` for other shapes, or no words."""
        width, limits = self.config.model.feature_size, self.config.data
        count = len(regions.features) if regions.features.ndim else 0
        shapes = (regions.features.shape, regions.boxes.shape, regions.image_size.shape)
        if not count or shapes != ((count, width), (count, 4), (2,)):
            given = "features are {}, boxes {}, the size {}".format(*shapes)
            raise DataError(f"{name}: {given}; expected (K, {width}), (K, 4) and (2,) with K at least 1")
        words = tuple(tokenize(text)[: limits.max_tokens])
        if not words and not wordless:
            raise DataError("the text has no words")
        most = limits.max_regions
        kept = Regions(regions.features[:most], regions.boxes[:most], regions.image_size)
        return Pair(name, kept, text, words)

    def _batch(self, pairs: Sequence[Pair]) -> Batch:
        """Return pairs as a batch on the network's device."""
        most, samples = self.config.data, []
        for index, pair in enumerate(pairs):
            tokens = np.array(self.vocabulary.encode(pair.words, most.max_tokens), np.int64)
            own = {"tokens": tokens, "index": np.array(index, np.int64)}
            samples.append({**pair.regions.sample(most.max_regions), **own})
        device = next(self.model.parameters()).device
        return {name: tensor.to(device) for name, tensor in collate(samples).items()}


def load(
    checkpoint_path: PathLike | Sequence[PathLike],
    detector: PathLike | None = None,
    device: str = "cpu",
    *,
    features: PathLike | None = None,
    cache: PathLike | None = None,
    vocabulary_from: PathLike | None = None,
) -> LoadedModel:
    """Load a checkpoint, or several whose predictions are averaged, onto `device`; an exported model is one, too.

    Images need the weights of a `detector`, whose regions are kept in `cache` (default: `default_cache`), or
    `features`: their .npz files in a folder, or a store. Released weights need `vocabulary_from`, the data that
    they were trained on. Raises `CheckpointError` when a checkpoint is missing, damaged, or without vocabulary, or
    when several do not belong together.
    """
    given = checkpoint_path if isinstance(checkpoint_path, (list, tuple)) else [checkpoint_path]
    if not given:
        raise ConfigError("no checkpoint is named")
    paths = map(Path, cast(Sequence[PathLike], given))
    loaded = [network_of(path, complete(path, vocabulary_from), device) for path in paths]
    _, task, genotype, config = loaded[0]
    for _, other, *_ in loaded[1:]:
        _require_alike(task, other)
    boxes = _BOXES.get(config.task, _BOXES["vqa"])
    inputs = Inputs(config.model.feature_size, boxes, detector, features, cache, device)
    return LoadedModel([model for model, *_ in loaded], task, genotype, config, inputs)


def _require_alike(task: Task, other: Task) -> None:
    """Raise `CheckpointError` unless the predictions of both can be averaged."""

    def traits(each: Task) -> dict[str, Any]:
        config = each.config
        return {
            "task": each.name,
            "vocabulary": each.vocabularies,
            "width of features": config.model.feature_size,
            "limit of words or regions": (config.data.max_tokens, config.data.max_regions),
            "kind of score": each.name == "vgd" and config.training.loss == "bce",
        }

    theirs = traits(other)
    for what, ours in traits(task).items():
        if theirs[what] != ours:
            raise CheckpointError(
                f"{other.weights} has another {what} than {task.weights}: they cannot be averaged"
            )
