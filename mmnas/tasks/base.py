"""The contract between a task and the engine, and what all tasks have in common.

A task knows its files, its head, its loss and its score. Trainer, searcher and evaluator know none of
them: they see a `Task`, its data sets and batches.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, cast

from msgspec.structs import replace
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from mmnas.batch import Batch
from mmnas.config import Config
from mmnas.data.features import RegionSource
from mmnas.data.made_by import MadeBy
from mmnas.data.own import OWN, splits_of
from mmnas.data.samples import SizedDataset, require_images, warn_if_normalized, weight_samples
from mmnas.errors import CheckpointError, DataError
from mmnas.genotype import Genotype
from mmnas.models.network import MMNasNet, build_network
from mmnas.models.operations import Sizes
from mmnas.schema import require_one_of
from mmnas.tasks.report import Report
from mmnas.tasks.result import Record, Result, Tools
from mmnas.text.vocabulary import Vocabulary
from mmnas.text.word_vectors import word_vectors


class Task(ABC):
    """One task under one configuration, made once per run."""

    name: ClassVar[str]
    splits: ClassVar[tuple[str, ...]]
    """Values of --SPLIT, the default first."""
    headline: ClassVar[str]
    """The figure of `Result.summary` that picks the best checkpoint; higher is better."""
    vocabulary_names: ClassVar[tuple[str, ...]] = ("tokens",)
    """The word lists that a checkpoint of this task holds."""
    flags: ClassVar[Mapping[str, str]] = {}
    """Flags that only this task's script has, and the configuration keys that they set."""
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """The valid values of configuration keys, the default first."""
    free_keys: ClassVar[tuple[str, ...]] = ()
    """Configuration keys that may differ from a checkpoint's when it is scored."""
    counted: ClassVar[Mapping[str, tuple[str, str]]] = {"embedding.weight": ("words", "the texts of all splits")}
    """Parameters whose rows stand for something in the data: what a row is, and the files that it comes from."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.vocabularies: dict[str, list[str]] = {}
        self.weights = "the network"
        """What predicts, for messages: the path of a checkpoint, if there is one."""
        self.made_by: MadeBy | None = None
        """What made the region features that were opened; None where nothing is noted."""
        self.keeps_scores = False
        """Whether results hold the scores of all answers or boxes, for ensembles."""
        self.image_ids: Sequence[int] = ()
        """The image of every sample that is being scored, where known; also for messages."""

    @classmethod
    def settle(cls, config: Config) -> Config:
        """Complete the configuration of a new run. Raises `ConfigError` for an unknown value."""
        default = "train" if config.data.dataset == OWN else cls.splits[0]
        config = replace(config, split=config.split or default)
        for key, valid in cls.choices.items():
            require_one_of(key, config.value(key), valid)
        for split in config.training.split_base_lr:
            require_one_of("training.split_base_lr: the split", split, cls.splits)
        return config

    @property
    def scores_val(self) -> bool:
        """Whether val is held out of training and may be scored along the way."""
        data, held_out = self.config.data, "val" not in self.config.split.split("+")
        return held_out and (data.dataset != OWN or "val" in splits_of(self.config.paths.data, self.name))

    def splits_of(self, run: str) -> tuple[str, ...]:
        """Return the splits that --RUN=val or --RUN=test scores."""
        return (run,)

    @abstractmethod
    def build_vocabularies(self) -> dict[str, list[str]]:
        """Return the word lists that give token ids and outputs their meaning, made from the data."""

    def use_vocabularies(self, vocabularies: Mapping[str, list[str]]) -> None:
        """Take the word lists of a checkpoint. Raises `CheckpointError` when they are no such task's."""
        held, needed = sorted(vocabularies), sorted(self.vocabulary_names)
        if held != needed:
            raise CheckpointError(f"checkpoint holds vocabularies {held}, {self.name} needs {needed}")
        self.vocabularies = {name: list(words) for name, words in vocabularies.items()}
        Vocabulary(self.vocabularies["tokens"])  # which refuses a word that stands twice

    @property
    def words(self) -> Vocabulary:
        """The words that have an embedding."""
        return Vocabulary(self.vocabularies["tokens"])

    @abstractmethod
    def open_features(self) -> RegionSource:
        """Return the region features of the data set. Raises `DataError` naming where they were looked for."""

    @functools.cached_property
    def regions(self) -> RegionSource:
        """The region features, opened once for all splits."""
        return self.open_features()

    def require_features(self, image_ids: Sequence[int], what: str) -> RegionSource:
        """Return the region features. Raises `DataError` unless all images have some, and the first can be read."""
        require_images(self.regions, image_ids, what)
        warn_if_normalized(self.regions[image_ids[0]], image_ids[0])  # and files of another kind are refused now
        self.made_by = self.regions.made_by
        return self.regions

    def sources(self) -> list[Callable[[], object]]:
        """Return what raises `MissingData` unless files that training needs are there."""
        return [self.open_features]

    @abstractmethod
    def training_set(self) -> SizedDataset:
        """Return the samples of `config.split`. Raises `DataError` for anything missing or damaged."""

    def search_sets(self) -> tuple[SizedDataset, SizedDataset]:
        """Return what weights and what architecture parameters learn from in a search.

        They are the first 80 % and the rest of the training set, without a sample in common.
        """
        whole = self.training_set()
        dataset, cut = cast(Dataset, whole), weight_samples(len(whole))
        return Subset(dataset, range(cut)), Subset(dataset, range(cut, len(whole)))

    def check_samples(self, batch: Batch) -> None:
        """Raise `DataError` where nothing can be learned from a batch that stands for the training set."""
        return

    @abstractmethod
    def evaluation_set(self, split: str) -> SizedDataset:
        """Return the samples of `split`, one of `splits_of`, in file order, with the references that score them."""

    @abstractmethod
    def build_head(self, **sizes: Any) -> nn.Module:
        """Build the task's head from the sizes that the heads of all tasks share."""

    def build_model(self, genotype: Genotype, pretrained_words: bool) -> MMNasNet:
        """Build the network for the vocabularies at hand.

        With `pretrained_words` the embedding starts from word vectors; without, its weights are expected
        from a checkpoint.
        """
        model, paths, words = self.config.model, self.config.paths, self.vocabularies["tokens"]
        head = self.build_head(
            hidden=model.hidden_size,
            pooling_size=model.pooling_size,
            glimpses=model.glimpses,
            pooled=model.pooled_size,
            dropout=model.dropout,
        )
        where = paths.word_vectors, self.config.files.cache, paths.data
        vectors = word_vectors(words, *where) if pretrained_words else None
        return build_network(
            genotype=genotype,
            head=head,
            sizes=Sizes(model.hidden_size, model.relation_size, model.head_scale, model.dropout),
            vocabulary_size=len(words),
            word_size=model.word_size,
            feature_size=model.feature_size,
            box_size=model.box_size,
            word_vectors=vectors,
        )

    def explain_misfit(self, parameter: str, found: tuple[int, ...], expected: tuple[int, ...]) -> str | None:
        """Return why a checkpoint's weight has another shape than the network's, and the remedy, or None."""
        for part, (what, files) in self.counted.items():
            if part in parameter and found[1:] == expected[1:]:
                return (
                    f"it was trained with {found[0]} {what}, the data gives {expected[0]}: "
                    f"put {files} that it was trained with under --DATA_PATH"
                )
        if parameter == "region_stem.linear.weight" and found[:1] == expected[:1]:
            widths = f"it was trained with region features {found[1]} wide, these are {expected[1]}"
            kinds = "".join(f" or --FEAT={kind}" for kind in self.choices.get("data.feature_kind", ()))
            return f"{widths}: name others by --FEAT_PATH{kinds}, or set model.feature_size by --CFG"
        return None

    def before_epoch(self, model: MMNasNet, epoch: int, tools: Tools, datasets: Sequence[Any]) -> None:
        """Prepare the data sets for epoch `epoch` (from 0), model in evaluation mode; not repeated on resuming."""
        return

    def state(self, datasets: Sequence[Any]) -> dict[str, Tensor]:
        """Return what `before_epoch` prepared, for checkpoints."""
        return {}

    def restore_state(self, datasets: Sequence[Any], state: dict[str, Tensor]) -> None:
        """Restore what `state` returned. Raises `CheckpointError` when it does not fit the data."""
        return

    def with_totals(self, batch: Batch) -> Batch:
        """Add the sums over a whole batch, as scalars, by which the loss of each part of it is divided."""
        return batch

    def parts(self, batch: Batch, count: int) -> list[Batch]:
        """Cut a batch along its samples into `count` batches; scalars go to each of them."""
        pieces = {name: each.tensor_split(count) if each.ndim else [each] * count for name, each in batch.items()}
        return [{name: piece[number] for name, piece in pieces.items()} for number in range(count)]

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Run the model once; return the scalar to minimize as `total`, and its parts by name."""

    @abstractmethod
    def predict(self, model: nn.Module, batch: Batch) -> list[Record]:
        """Run the model in evaluation mode; return one record per sample with its `index`."""

    def require_finite(self, batch: Batch, *outputs: Tensor) -> None:
        """Raise `DataError` unless all numbers of the outputs (B, ...) are finite: `predict` uses no other."""
        for output in outputs:
            damaged = ~output.isfinite().flatten(1).all(dim=1)  # (B,)
            if damaged.any():
                index = int(batch["index"][damaged][0])
                image = f" (image {self.image_ids[index]})" if len(self.image_ids) else ""
                raise DataError(
                    f"{self.weights} gives NaN or infinite numbers for sample {index}{image}: its "
                    "weights or the image's features are damaged; check the features by `check-data --full`"
                )

    def with_scores(self, records: list[Record], scores: Tensor) -> list[Record]:
        """Add its row of `scores` (B, ...) to each record, if the result shall hold them."""
        if self.keeps_scores:
            for record, row in zip(records, scores.cpu().numpy(), strict=True):
                record["scores"] = row
        return records

    @abstractmethod
    def score(self, predictions: list[Record], dataset: Any) -> Result:
        """Score the predictions for all samples, sorted by index, against the references of `dataset`."""

    def evaluate(self, model: nn.Module, loader: Iterable[Batch], dataset: Any, tools: Tools) -> Result:
        """Predict this process's batches, gather the predictions of all processes, score them."""
        self.image_ids = getattr(dataset, "image_ids", ())
        predictions = [record for batch in loader for record in self.predict(model, batch)]
        return self.score(sorted(tools.gather(predictions), key=lambda record: record["index"]), dataset)

    @abstractmethod
    def check(self, report: Report, full: bool) -> None:
        """Report on the files that training reads, using its own readers; `full` reads every image's features."""
