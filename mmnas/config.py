"""Everything a run is set by, in frozen dataclasses that check themselves.

Filled from a section of the shipped YAML, then a `--CFG` file of the same shape, then flags (`configs/`).
The whole of it is written into each checkpoint as plain types.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmnas.errors import ConfigError
from mmnas.paths import RunPaths
from mmnas.typed import build, require_one_of, shown, to_plain

SIZES = ("small", "large", "tiny", "search")
MOST_BLOCKS = 1000  # of a stream in a search; what is more is a slip of the pen
ALPHA_MODES = ("full", "two")
ALPHA_INITS = ("prior", "uniform", "normal")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the network (paper section 4.1)."""

    hidden_size: int
    """H, the width of both streams."""
    pooling_size: int
    """Inner width of the attention pooling's MLP."""
    pooled_size: int
    """Width after pooling, 2H in the paper."""
    head_scale: int = 1
    """An attention head is as wide as the suffix of its operation's name times this."""
    feature_size: int = 2048
    """D, the width of a region feature."""
    word_size: int = 300
    """Width of a word vector."""
    relation_size: int = 64
    """R, the width of the relation embedding."""
    box_size: int = 0
    """Width of the embedded normalised box that joins each region feature; 0 leaves it out."""
    glimpses: int = 1
    """Softmaxes per attention pooling."""
    dropout: float = 0.1
    """Rate of every dropout, attention maps included."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if name not in ("box_size", "dropout") and value < 1:
                raise ConfigError(f"model.{name} must be at least 1, not {value}")
        if self.box_size < 0:
            raise ConfigError(f"model.box_size must not be negative, not {self.box_size}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model.dropout must lie in [0, 1), not {self.dropout}")


@dataclass(frozen=True)
class DataConfig:
    """What of the data a sample holds."""

    max_tokens: int = 14
    """Longer text is cut."""
    max_regions: int = 100
    """Further regions of an image are left out."""
    answer_min_count: int = 8
    """VQA: an answer enters the vocabulary when it occurs more often than this."""
    dataset: str = ""
    """Which of a task's data sets: refcoco, refcoco+ or refcocog; flickr or coco; empty for a task with one."""
    protocol: str = ""
    """Matching: which images are scored against each other: flickr1k, coco5k or coco1k."""
    feature_kind: str = ""
    """Which of a task's region features: vg_woref or coco_mrcn; empty for a task with one."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "max_regions"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class TrainingConfig:
    """How weights are learnt (paper section 4.1)."""

    base_lr: float
    """Learning rate after the warm-up of three epochs."""
    epochs: int
    """Passes over the training split."""
    decay_epochs: tuple[int, ...] = ()
    """Epoch indices (from 0) at whose start the learning rate is multiplied by `decay_rate`."""
    decay_rate: float = 0.2
    """Factor of one decay."""
    split_base_lr: dict[str, float] = field(default_factory=dict)
    """Base learning rates that hold for some values of --SPLIT instead."""
    optimizer: str = "adam"
    """`adam`, or `sgd` with cosine decay to the last epoch."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Adam's decay rates."""
    eps: float = 1e-9
    """Adam's epsilon."""
    momentum: float = 0.9
    """SGD's momentum."""
    loss: str = ""
    """Which of a task's losses: kld or bce for grounding, bce or margin for matching; empty for a task with one."""
    negative_candidates: int = 64
    """Matching: random candidates, per image and per caption, among which negatives are looked for."""
    hard_negatives: int = 5
    """Matching: how many of the candidates that score best a negative is drawn from."""
    random_negative_epochs: int = 0
    """Matching: first epochs that take any negative."""
    clip_norm: float = 1.0
    """Largest norm of the whole gradient."""
    batch_size: int = 64
    """Samples per optimiser step and process."""
    accumulate: int = 1
    """Parts that a batch is computed in, to save memory."""
    eval_batch_size: int = 128
    """Samples per forward in evaluation."""
    buckets: bool = True
    """Whether batches hold images of about as many regions each, where a feature store tells how many there are."""
    workers: int = 4
    """Loader processes per process; 0 loads in the process itself."""
    precision: str = "fp32"
    """`fp32`, or `bf16` autocast."""
    compile: bool = False
    """Whether the network goes through torch.compile."""
    seed: int = 0
    """Where all random streams start."""

    def __post_init__(self) -> None:
        for name in (
            "epochs", "batch_size", "accumulate", "eval_batch_size", "negative_candidates", "hard_negatives",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("base_lr", "clip_norm", "eps", "decay_rate"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise ConfigError(f"training.{name} must be a positive number, not {value}")
        for split, value in self.split_base_lr.items():
            if not 0 < value < float("inf"):
                raise ConfigError(f"training.split_base_lr.{split} must be a positive number, not {value}")
        for name, value in (("betas[0]", self.betas[0]), ("betas[1]", self.betas[1]), ("momentum", self.momentum)):
            if not 0 <= value < 1:
                raise ConfigError(f"training.{name} must lie in [0, 1), not {value}")
        for name, limit in (("workers", 2**10), ("seed", 2**63)):
            if not 0 <= getattr(self, name) < limit:
                raise ConfigError(f"training.{name} must lie in [0, {limit}), not {getattr(self, name)}")
        for name, valid in (("optimizer", ("adam", "sgd")), ("precision", ("fp32", "bf16"))):
            require_one_of(f"training.{name}", getattr(self, name), valid)
        if self.accumulate > self.batch_size:
            raise ConfigError(
                f"training.accumulate {self.accumulate} (--ACCU) is more than the batch size "
                f"{self.batch_size} (--BS); a batch cannot be split into more parts than samples"
            )


@dataclass(frozen=True)
class SearchConfig:
    """What a search looks for, and how architecture parameters (alphas) are learnt (paper section 3.4)."""

    encoder_blocks: int = 12
    """Blocks over the tokens."""
    decoder_blocks: int = 18
    """Blocks over the regions."""
    encoder_candidates: tuple[str, ...] = ("self_att_64", "feed_forward")
    """Operations that every encoder block chooses among."""
    decoder_candidates: tuple[str, ...] = ("self_att_64", "rel_self_att_64", "guided_att_64", "feed_forward")
    """Operations that every decoder block chooses among."""
    alpha_mode: str = "full"
    """`full` runs every candidate in an architecture step, `two` draws two per block."""
    alpha_start: int = 20
    """Epoch index (from 0) at which architecture steps begin."""
    alpha_every: int = 5
    """Weight steps per architecture step."""
    alpha_init: str = "prior"
    """`prior` starts from the pattern (SA FFN) / (RSA GA FFN), `uniform` from zeros, `normal` from small noise."""
    alpha_lr: float = 0.1
    """Adam's learning rate for the alphas."""
    alpha_betas: tuple[float, float] = (0.0, 0.999)
    """Adam's decay rates for the alphas."""
    patience: int = 0
    """Epochs with architecture steps and an unchanged genotype after which to stop; 0 never does."""

    def __post_init__(self) -> None:
        for name, least in (
            ("encoder_blocks", 1), ("decoder_blocks", 1), ("alpha_start", 0), ("alpha_every", 1), ("patience", 0),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ConfigError(f"search.{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("encoder_blocks", "decoder_blocks"):
            if getattr(self, name) > MOST_BLOCKS:
                raise ConfigError(f"search.{name} must be at most {MOST_BLOCKS}, not {getattr(self, name)}")
        for name in ("encoder_candidates", "decoder_candidates"):
            candidates = getattr(self, name)
            if not candidates or len(set(candidates)) < len(candidates):
                raise ConfigError(f"search.{name} must list different operations, not {shown(list(candidates))}")
        require_one_of("search.alpha_mode", self.alpha_mode, ALPHA_MODES)
        require_one_of("search.alpha_init", self.alpha_init, ALPHA_INITS)
        if not 0 < self.alpha_lr < float("inf"):
            raise ConfigError(f"search.alpha_lr must be a positive number, not {self.alpha_lr}")
        for value in self.alpha_betas:
            if not 0 <= value < 1:
                raise ConfigError(f"search.alpha_betas must lie in [0, 1), not {value}")


@dataclass(frozen=True)
class PathsConfig:
    """Where files are read and written."""

    data: str = "./data"
    """The data root; the task's files lie below it as in the README."""
    features: str | None = None
    """Root of the region features when they do not lie below the data root."""
    word_vectors: str | None = None
    """A spaCy vectors package or directory, or a GloVe text file; found by itself when None."""
    logs: str = "./logs"
    """Root of checkpoints, results and logs."""


@dataclass(frozen=True)
class Config:
    """One run's settings."""

    task: str
    size: str
    split: str
    version: str
    model: ModelConfig
    data: DataConfig
    training: TrainingConfig
    paths: PathsConfig
    search: SearchConfig = field(default_factory=SearchConfig)

    @property
    def files(self) -> RunPaths:
        """Where this run reads and writes its own files."""
        return RunPaths(self.paths.logs, self.version)

    @property
    def base_lr(self) -> float:
        """The base learning rate of this run's training split."""
        return self.training.split_base_lr.get(self.split, self.training.base_lr)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types only: dicts, lists, strings, numbers, None."""
        return to_plain(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """Rebuild what `to_dict` gave; raises `ConfigError` naming the key that does not fit."""
        return build(cls, values, "")


@dataclass(frozen=True)
class Flag:
    """One flag. `target` is a field of `Request`, or a dotted configuration key that it overrides."""

    name: str
    target: str
    group: str
    help: str
    default: str
    kind: type = str
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
