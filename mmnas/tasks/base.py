"""The contract between a task and the engine.

A task knows its files, its head, its loss and its score. Trainer, searcher and evaluator know none of
them: they see a `Task`, its data sets and batches.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

import numpy as np
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from mmnas.batch import Batch
from mmnas.config import Config
from mmnas.errors import CheckpointError, DataError
from mmnas.genotype import Genotype
from mmnas.models.network import MMNasNet
from mmnas.schema import require_one_of

Record = dict[str, Any]
Gather = Callable[[list[Any]], list[Any]]


class SizedDataset(Protocol):
    """A data set that knows how many samples it holds; torch's own type does not say so."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Result:
    """What scoring a split gave.

    `summary` holds the figures to show, `metrics` all of them, `predictions` what the result file lists;
    the first two are empty where the split has no references. `arrays` are written beside it by their names.
    """

    predictions: list[Record]
    summary: dict[str, float]
    metrics: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Tools:
    """What the engine lends a task: its place among the processes, what they share, loading, progress."""

    rank: int
    processes: int
    gather: Gather
    """Return the rows of all processes, those of rank 0 first."""
    progress: Callable[..., Any]
    """`progress(items, title)`: the items behind a progress bar."""
    load: Callable[[SizedDataset, Sequence[list[int]], str], Iterable[Batch]]
    """`load(dataset, batches, title)`: batches of the samples that are listed, behind a progress bar."""


def weight_share(count: int) -> int:
    """Return how many of `count` samples, the first ones, weights learn from in a search: 80 %."""
    if count < 2:
        raise DataError("the training split holds one sample: a search needs some for weights and some for alphas")
    return max(1, count * 4 // 5)


class Task(ABC):
    """One task under one configuration. Made once per run, before its data sets."""

    name: ClassVar[str]
    splits: ClassVar[tuple[str, ...]]
    """Values of --SPLIT, the default first."""
    headline: ClassVar[str]
    """The figure of `Result.summary` that picks the best checkpoint; higher is better."""
    vocabulary_names: ClassVar[tuple[str, ...]]
    """The word lists that a checkpoint of this task holds."""
    flags: ClassVar[dict[str, str]] = {}
    """Flags that only this task's script has, and the configuration keys that they set."""
    choices: ClassVar[dict[str, tuple[str, ...]]] = {}
    """The values that this task knows, by configuration key."""
    free_keys: ClassVar[tuple[str, ...]] = ()
    """Configuration keys that may differ from a checkpoint's when it is scored."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.vocabularies: dict[str, list[str]] = {}

    @classmethod
    def settle(cls, config: Config) -> Config:
        """Return the configuration of a new run with what follows from its other keys.

        Raises `ConfigError` naming the key and the valid values for one that the task does not know.
        """
        for key, valid in cls.choices.items():
            part, name = key.split(".")
            require_one_of(key, getattr(getattr(config, part), name), valid)
        return config

    @property
    def scores_val(self) -> bool:
        """Whether val is held out of training and may be scored along the way."""
        return "val" not in self.config.split.split("+")

    def splits_of(self, run: str) -> tuple[str, ...]:
        """Return the splits that --RUN=val or --RUN=test scores."""
        return (run,)

    @abstractmethod
    def build_vocabularies(self) -> dict[str, list[str]]:
        """Return the word lists that give token ids and outputs their meaning, made from the data."""

    @abstractmethod
    def training_set(self) -> SizedDataset:
        """Return the samples of `config.split`. Raises `DataError` for anything missing or damaged."""

    def search_sets(self) -> tuple[SizedDataset, SizedDataset]:
        """Return what weights and what architecture parameters learn from in a search.

        They are the first 80 % and the rest of the training set, without a sample in common.
        """
        whole = self.training_set()
        samples = range(len(whole))
        cut = weight_share(len(whole))
        dataset = cast(Dataset, whole)
        return Subset(dataset, samples[:cut]), Subset(dataset, samples[cut:])

    @abstractmethod
    def evaluation_set(self, split: str) -> SizedDataset:
        """Return the samples of `split`, one of `splits_of`, in the order of its file."""

    @abstractmethod
    def build_model(self, genotype: Genotype, pretrained_words: bool) -> MMNasNet:
        """Build the network for the vocabularies at hand, its embedding from word vectors if asked."""

    def explain_misfit(self, parameter: str, found: tuple[int, ...], expected: tuple[int, ...]) -> str | None:
        """Say why a checkpoint's weight has another shape than this task's network, and the remedy; or None."""
        if parameter.endswith("embedding.weight") and found[1:] == expected[1:]:
            return (
                f"it was trained with {found[0]} words, the data gives {expected[0]}: "
                "put the texts of all splits that it was trained with under --DATA_PATH"
            )
        return None

    def with_totals(self, batch: Batch) -> Batch:
        """Add the sums over a whole batch, as scalars, that the loss of a part of it is divided by."""
        return batch

    def before_epoch(self, model: MMNasNet, epoch: int, tools: Tools) -> None:
        """Prepare epoch `epoch` (from 0) with the model in evaluation mode; not called again on resuming it."""
        return

    def state(self) -> dict[str, Tensor]:
        """Return what `before_epoch` prepared, for checkpoints."""
        return {}

    def restore_state(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` gave. Raises `CheckpointError` when it does not fit the data."""
        return

    def parts(self, batch: Batch, count: int) -> list[Batch]:
        """Cut a batch along its samples into `count` batches; scalars go to each of them."""
        pieces = {
            name: tensor.tensor_split(count) if tensor.ndim else [tensor] * count for name, tensor in batch.items()
        }
        return [{name: piece[position] for name, piece in pieces.items()} for position in range(count)]

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Run the model once; return the scalar to minimise as `total`, and its parts by name."""

    @abstractmethod
    def predict(self, model: nn.Module, batch: Batch) -> list[Record]:
        """Run the model in evaluation mode; return one record per sample with its `index`."""

    @abstractmethod
    def score(self, records: list[Record], split: str) -> Result:
        """Turn the records of every sample of `split`, sorted by index, into a result."""

    def evaluate(self, model: nn.Module, loader: Iterable[Batch], split: str, tools: Tools) -> Result:
        """Predict this process's batches, gather the records of all processes, score them."""
        records = [record for batch in loader for record in self.predict(model, batch)]
        return self.score(sorted(tools.gather(records), key=lambda record: record["index"]), split)

    def check_result(self, path: Path, split: str) -> None:
        """Check the predictions that were written for `split`. Raises `DataError` naming what is wrong."""
        return

    def use_vocabularies(self, vocabularies: Mapping[str, list[str]]) -> None:
        """Take the word lists of a checkpoint. Raises `CheckpointError` when they are another task's."""
        wanted = set(self.vocabulary_names)
        if set(vocabularies) != wanted:
            raise CheckpointError(
                f"checkpoint holds vocabularies {sorted(vocabularies)}, {self.name} needs {sorted(wanted)}"
            )
        self.vocabularies = {name: list(words) for name, words in vocabularies.items()}
