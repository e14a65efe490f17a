"""The settings of a run: every field with its type, limits, default and help text, and how they are read.

They come from a section of the shipped YAML, then from a `--CFG` file of the same shape, then from flags. The whole
configuration is written into each checkpoint as plain types.
"""

import functools
import importlib.resources
import operator
import re
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from mmnas.errors import ConfigError
from mmnas.paths import RunPaths
from mmnas.plain_yaml import parse_yaml, read_yaml
from mmnas.schema import Natural, Text, convert, field_types, require_one_of, shown

FEATURE_SIZE = 2048
Size = Literal["small", "large", "tiny", "search"]
SIZES: tuple[str, ...] = typing.get_args(Size)
VERSION = re.compile(r"\w[\w.+=@-]{0,99}")
"""Names of runs, which become part of file names."""

Rate = Annotated[float, Meta(gt=0, le=1e38)]
Fraction = Annotated[float, Meta(ge=0, lt=1)]
MOST_BLOCKS = 1000  # of a stream
Blocks = Annotated[int, Meta(ge=1, le=MOST_BLOCKS)]
Width = Annotated[int, Meta(ge=1, le=1 << 16)]
Amount = Annotated[int, Meta(ge=1, le=10**6)]
Few = Annotated[int, Meta(ge=0, le=10**4)]
Names = tuple[Text, ...]
AlphaMode = Literal["full", "two"]
AlphaInit = Literal["prior", "uniform", "normal"]
Strategy = Literal["paper", "random", "evolution"]
Sampling = Literal["alphas", "fair"]
BUDGET = re.compile(r"(\d{1,15}(\.\d{1,9})?[KMG]?)?", re.ASCII)
ENCODER = ("self_att_64", "feed_forward")
DECODER = ("self_att_64", "rel_self_att_64", "guided_att_64", "feed_forward")


def doc(text: str) -> Meta:
    """Return a field's help text, as --help shows it."""
    return Meta(description=text)


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of the configuration; unknown keys are errors."""


class ModelConfig(Section, frozen=True):
    """Sizes of the network (paper section 4.1)."""

    hidden_size: Annotated[Width, doc("H, width of both streams")]
    pooling_size: Annotated[Width, doc("inner width of the attention pooling's MLP")]
    pooled_size: Annotated[Width, doc("width after pooling, 2H in the paper")]
    head_scale: Annotated[Blocks, doc("an attention head is this times as wide as its operation's name says")] = 1
    feature_size: Annotated[Width, doc("D, width of a region feature")] = FEATURE_SIZE
    word_size: Annotated[Width, doc("width of a word vector")] = 300
    relation_size: Annotated[Width, doc("R, width of the relation embedding")] = 64
    box_size: Annotated[int, Meta(ge=0, le=1 << 16), doc("width of each region's box embedding; 0 for none")] = 0
    glimpses: Annotated[Blocks, doc("softmaxes per attention pooling")] = 1
    dropout: Annotated[Fraction, doc("probability of every dropout, attention maps included")] = 0.1


class DataConfig(Section, frozen=True):
    """Limits and choices of the input data."""

    max_tokens: Annotated[Amount, doc("longer text is cut")] = 14
    max_regions: Annotated[Amount, doc("further regions of an image are left out")] = 100
    answer_min_count: Annotated[
        Natural | None, doc("VQA: answers that occur more often enter the vocabulary; default: 8, 0 for own data")
    ] = None
    dataset: Annotated[Text, doc("data set")] = ""
    protocol: Annotated[Text, doc("images scored against each other; if omitted, as --DATASET is")] = ""
    feature_kind: Annotated[Text, doc("kind of region features")] = ""
    metric: Annotated[Text, doc("VQA accuracy, or exact match for data with fewer than ten answers")] = "vqa"


class TrainingConfig(Section, frozen=True):
    """How weights are learned (paper section 4.1)."""

    base_lr: Annotated[Rate, doc("learning rate after the warm-up of three epochs")]
    epochs: Annotated[Amount, doc("epochs to train")]
    decay_epochs: Annotated[tuple[Natural, ...], doc("epochs (from 0) at whose start the rate decays")] = ()
    decay_rate: Annotated[float, Meta(gt=0, le=1), doc("factor of one decay")] = 0.2
    split_base_lr: Annotated[dict[Text, Rate], doc("other base learning rates for some values of --SPLIT")] = {}
    optimizer: Annotated[Literal["adam", "sgd"], doc("adam, or sgd with cosine decay to the last epoch")] = "adam"
    betas: Annotated[tuple[Fraction, Fraction], doc("Adam's decay rates")] = (0.9, 0.98)
    eps: Annotated[Rate, doc("Adam's epsilon")] = 1e-9
    momentum: Annotated[Fraction, doc("momentum of sgd")] = 0.9
    loss: Annotated[Text, doc("loss function")] = ""
    negative_candidates: Annotated[Amount, doc("matching: random candidates for each kind of negative")] = 64
    hard_negatives: Annotated[Amount, doc("matching: a negative is drawn from so many best candidates")] = 5
    random_negative_epochs: Annotated[Natural, doc("matching: first epochs that draw from all candidates")] = 0
    clip_norm: Annotated[Rate, doc("largest norm of the whole gradient")] = 1.0
    batch_size: Annotated[Amount, doc("samples per step and process")] = 64
    accumulate: Annotated[Amount, doc("gradient accumulation: micro-batches per batch")] = 1
    eval_batch_size: Annotated[Amount, doc("samples per forward pass in evaluation")] = 128
    buckets: Annotated[bool, doc("group images with similar region counts (packed features only)")] = True
    workers: Annotated[int, Meta(ge=0, lt=1024), doc("data-loading workers per process; 0 for none")] = 4
    features: Annotated[
        Literal["stream", "memory", "device"] | None,
        doc("keep packed features on disk, in memory or on the GPU; default: the GPU where they fit, or else disk"),
    ] = None
    precision: Annotated[Literal["fp32", "tf32", "bf16"], doc("number format of the forward pass")] = "fp32"
    joined_kernels: Annotated[bool, doc("fewer kernels for a step on a GPU; not yet timed on one")] = False
    compile: Annotated[bool, doc("compile the network with torch.compile for training")] = False
    seed: Annotated[Natural, doc("random seed")] = 0

    def __post_init__(self) -> None:
        if self.accumulate > self.batch_size:
            raise ConfigError(
                f"accumulate {self.accumulate} (--ACCU) is more than the batch size {self.batch_size} (--BS); "
                "a batch cannot be split into more parts than samples"
            )


class SearchConfig(Section, frozen=True):
    """The search space, and how architecture parameters (alphas) are learned (paper section 3.4)."""

    encoder_blocks: Annotated[Blocks, doc("blocks over the tokens")] = 12
    decoder_blocks: Annotated[Blocks, doc("blocks over the regions")] = 18
    encoder_candidates: Annotated[Names, doc("operations that every encoder block chooses from")] = ENCODER
    decoder_candidates: Annotated[Names, doc("operations that every decoder block chooses from")] = DECODER
    alpha_mode: Annotated[AlphaMode, doc("candidates per architecture step: all, or two drawn ones")] = "full"
    alpha_start: Annotated[Natural, doc("epochs before architecture steps")] = 20
    alpha_every: Annotated[Amount, doc("weight steps per architecture step")] = 5
    alpha_init: Annotated[AlphaInit, doc("alphas' start: pattern SA FFN / RSA GA FFN, zeros, or noise")] = "prior"
    alpha_lr: Annotated[Rate, doc("Adam's learning rate for the alphas")] = 0.1
    alpha_betas: Annotated[tuple[Fraction, Fraction], doc("Adam's decay rates for the alphas")] = (0.0, 0.999)
    patience: Annotated[Natural, doc("stop after N epochs with the same genotype; 0 never stops early")] = 0
    min_epochs: Annotated[int, Meta(ge=0, le=10**6), doc("never stop early before so many epochs")] = 0
    strategy: Annotated[Strategy, doc("alphas, or a control: the best of random paths, or evolution")] = "paper"
    choose: Annotated[Few, doc("at the end, score N genotypes, take the best; 0: none, 64 for a control")] = 0
    sampling: Annotated[Sampling, doc("warm-up's paths: by alphas, or each candidate equally often")] = "alphas"
    macs: Annotated[Text, doc("most multiply-adds of the blocks that are found, such as 2.0G")] = ""
    params: Annotated[Text, doc("most parameters of the blocks that are found, such as 40M")] = ""
    max_skip: Annotated[Few, doc("most blocks without parameters, as skip_connect")] = 2000

    def __post_init__(self) -> None:
        for name in ("encoder_candidates", "decoder_candidates"):
            candidates = getattr(self, name)
            if not candidates or len(set(candidates)) < len(candidates):
                raise ConfigError(f"{name} must list different operations, not {shown(list(candidates))}")
        for name in ("macs", "params"):
            if not BUDGET.fullmatch(getattr(self, name)):
                raise ConfigError(f"{name} must be a number such as 40M or 2.0G, not {shown(getattr(self, name))}")


class PathsConfig(Section, frozen=True):
    """Where files are read and written."""

    data: Annotated[Text, doc("root of the data")] = "./data"
    features: Annotated[Text | None, doc("region features: root or packed store, if not below --DATA_PATH")] = None
    word_vectors: Annotated[Text | None, doc("spaCy vectors or GloVe file, if not en_vectors_web_lg; or none")] = (
        None
    )
    logs: Annotated[Text, doc("root of checkpoints, results and logs")] = "./logs"


class Config(Section, frozen=True):
    """One run's settings."""

    task: Text
    size: Text
    split: Text
    version: Text
    model: ModelConfig
    data: DataConfig
    training: TrainingConfig
    paths: PathsConfig
    search: SearchConfig = SearchConfig()

    @property
    def files(self) -> RunPaths:
        """Where this run reads and writes its own files."""
        return RunPaths(self.paths.logs, self.version)

    @property
    def base_lr(self) -> float:
        """The base learning rate of this run's training split."""
        return self.training.split_base_lr.get(self.split, self.training.base_lr)

    def value(self, key: str) -> Any:
        """Return the value of a dotted key, such as `training.seed`."""
        return operator.attrgetter(key)(self)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types only: dicts, lists, strings, numbers, None."""
        return msgspec.json.decode(msgspec.json.encode(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """Rebuild what `to_dict` gave; raises `ConfigError` naming the key that does not fit."""
        return convert(values, cls)


PARTS: dict[str, Any] = {name: kind for name, kind in field_types(Config).items() if isinstance(kind, type)}
"""The sections of a configuration file."""


def load_config(
    task: str,
    size: str,
    *,
    split: str,
    version: str,
    overrides: Mapping[str, Any] | None = None,
    file: str | None = None,
) -> Config:
    """Read the shipped YAML's section `size`, then `file`, then `overrides` (`"training.seed": 1`)."""
    sections = shipped_sections(task)
    require_one_of(f"{task}'s size", size, sections)
    names = {"task": task, "size": size, "split": split, "version": version}
    shipped = {"data": {}, "paths": {}, **sections[size]}
    return Config.from_dict({**names, **overlaid(shipped, {**read_overrides(file), **(overrides or {})})})


def overlaid(parts: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a configuration's parts with dotted keys set, such as `"training.seed": 1`."""
    changed = dict(parts)
    for dotted, value in overrides.items():
        part, key = dotted.split(".", 1)
        changed[part] = {**changed.get(part, {}), key: value}
    return changed


def read_overrides(file: str | None) -> dict[str, Any]:
    """Return what a `--CFG` file sets, by dotted key. Raises `ConfigError` naming the file or the section."""
    parts = {} if file is None else read_yaml(file)
    if not isinstance(parts, dict) or not all(isinstance(values, dict) for values in parts.values()):
        raise ConfigError("a configuration must look like a section of the shipped YAML: {training: {seed: 1}}")
    for part in parts:
        require_one_of("section", str(part), PARTS)
    return {f"{part}.{key}": value for part, values in parts.items() for key, value in values.items()}


@functools.cache
def shipped_sections(task: str) -> dict[str, Any]:
    """Return the sections of a task's shipped YAML file, by the value of --MODEL."""
    file = importlib.resources.files("mmnas.configs") / f"{task}.yml"
    return parse_yaml(file.read_text(encoding="utf-8"))
