"""The flags of the scripts: a table from flags to fields, which give type, choices, default and help."""

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Struct

from mmnas.config import PARTS, Size, doc, load_config, shipped_sections
from mmnas.errors import ConfigError
from mmnas.schema import bare_type
from mmnas.tasks.base import Task

LEARNING = ("train", "search")
"""The values of --RUN that start from flags, learn, and may be resumed."""
YEAR = 366 * 24 * 60
"""The longest time limit, in minutes."""


class Request(Struct, frozen=True):
    """The flags as given; None stands for a flag that was left out."""

    run: Annotated[
        Literal["train", "val", "test", "search"],
        doc("train, score a split and write its result, or search an architecture"),
    ]
    version: Annotated[
        str | None, doc("name of the run, used in its file names; if omitted, task, size and time")
    ] = None
    resume: Annotated[bool, doc("continue from the newest checkpoint of --VERSION, or from --CKPT_PATH")] = False
    checkpoint: Annotated[
        str | None,
        doc("checkpoint to score, fine-tune or resume; best or last of --VERSION; if omitted, its last"),
    ] = None
    keep_all: Annotated[bool, doc("keep every epoch's checkpoint, not only the newest two and the best")] = False
    scores: Annotated[bool, doc("also write the scores of all answers or boxes, for ensembles")] = False
    new_answers: Annotated[
        bool, doc("VQA: fine-tune on other answers, with a new answer list and a new last layer")
    ] = False
    size: Annotated[Size | None, doc("size of the network; if omitted, small, or search for --RUN=search")] = None
    geno_path: Annotated[str | None, doc("genotype file, or the name of a shipped genotype")] = None
    geno_epoch: Annotated[int | None, doc("entry of the genotype file; if omitted, the last")] = None
    split: Annotated[str | None, doc("what to train on")] = None
    file: Annotated[str | None, doc("YAML file that overrides the defaults")] = None
    devices: Annotated[
        str | None,
        doc("GPU ids such as '0, 1' or 'cpu, cpu', one process each; if omitted, the first GPU, else cpu"),
    ] = None
    time_limit: Annotated[int | None, doc("save and stop after N minutes; continue with --RESUME")] = None
    overrides: Mapping[str, Any] = {}
    """Configuration keys that flags set, such as `training.seed`."""
    flags: Mapping[str, str] = {}
    """The flag that set a key, for messages."""
    default_version: str = ""
    """The name of a new run that was given none."""


# By group, in the order in which --help shows them: a flag, and the field of `Request` or the configuration key.
FLAGS = {
    "what to do": {
        "--RUN": "run", "--VERSION": "version", "--RESUME": "resume", "--CKPT_PATH": "checkpoint",
        "--KEEP_ALL": "keep_all", "--SCORES": "scores", "--NEW_ANSWERS": "new_answers",
    },
    "model": {"--MODEL": "size", "--GENO_PATH": "geno_path", "--GENO_EPOCH": "geno_epoch"},
    "data": {
        "--SPLIT": "split", "--DATA_PATH": "paths.data", "--FEAT_PATH": "paths.features",
        "--WORD_VECTORS": "paths.word_vectors",
    },
    "training": {
        "--LR": "training.base_lr", "--BS": "training.batch_size", "--ACCU": "training.accumulate",
        "--BUCKETS": "training.buckets", "--MAX_EPOCH": "training.epochs", "--SEED": "training.seed",
        "--CFG": "file",
    },
    "search": {
        "--ALPHA_MODE": "search.alpha_mode", "--ALPHA_START": "search.alpha_start",
        "--ALPHA_EVERY": "search.alpha_every", "--ALPHA_INIT": "search.alpha_init",
        "--PATIENCE": "search.patience", "--MIN_EPOCH": "search.min_epochs", "--SEARCH": "search.strategy",
        "--CHOOSE": "search.choose", "--SAMPLING": "search.sampling",
        "--MACS": "search.macs", "--PARAMS": "search.params", "--MAX_SKIP": "search.max_skip",
    },
    "machine": {
        "--GPU": "devices", "--NW": "training.workers", "--FEATURES": "training.features",
        "--PRECISION": "training.precision", "--COMPILE": "training.compile", "--TIME_LIMIT": "time_limit",
    },
}  # fmt: skip
ALIASES = {"--GENO_PATH": ("--ARCH_PATH",), "--GENO_EPOCH": ("--ARCH_EPOCH",)}


@dataclass(frozen=True)
class Flag:
    """One flag of a task's script and the field that it sets."""

    name: str
    aliases: tuple[str, ...]
    key: str
    group: str
    kind: type
    choices: tuple[str, ...]
    help: str
    default: str
    """As --help shows it; empty where there is none, or the help says it."""


def default_genotype(task: type[Task]) -> str:
    """Return the genotype that is trained when --GENO_PATH is left out."""
    return f"train_{task.name}"


def flags_of(task: type[Task]) -> list[Flag]:
    """Return the flags of a task's script, in the order in which --help shows them."""
    return [_flag(name, key, group, task) for group in FLAGS for name, key in _of_group(group, task)]


def _of_group(group: str, task: type[Task]) -> Iterator[tuple[str, str]]:
    yield from FLAGS[group].items()
    yield from ((name, key) for name, key in task.flags.items() if key.split(".")[0] == group)


def _flag(name: str, key: str, group: str, task: type[Task]) -> Flag:
    part, _, field_name = key.rpartition(".")
    fields = msgspec.structs.fields(PARTS[part] if part else Request)
    field = next(field for field in fields if field.name == field_name)
    kind, choices = bare_type(field.type), {**task.choices, "split": task.splits}.get(key, ())
    if typing.get_origin(kind) is Literal:
        kind, choices = str, typing.get_args(kind)
    text = typing.get_args(field.type)[-1].description
    return Flag(name, ALIASES.get(name, ()), key, group, kind, choices, text, _default(key, field.default, task))


def _default(key: str, value: Any, task: type[Task]) -> str:
    """Return the default as --help shows it: of configuration keys that of the default --MODEL."""
    note = ""
    if "." in key:
        sizes = shipped_sections(task.name)
        values = {size: load_config(task.name, size, split="", version="").value(key) for size in sizes}
        value = values.get("search" if key.startswith("search.") else "small", values["small"])
        note = "; depends on --MODEL" if len(set(values.values())) > 1 else ""
    value = {"split": task.splits[0], "geno_path": default_genotype(task)}.get(key, value)
    if value is msgspec.NODEFAULT:
        return "required"
    return "" if value in (None, "") else f"{str(value).lower() if isinstance(value, bool) else value}{note}"


def check_flags(request: Request) -> None:
    """Refuse flags that do not belong to what --RUN asks for."""
    run = f"--RUN={request.run}"
    if request.run not in LEARNING and (request.resume or request.keep_all):
        raise ConfigError(f"--RESUME and --KEEP_ALL belong to --RUN=train and --RUN=search, not to {run}")
    if request.run in LEARNING and request.scores:
        raise ConfigError(f"--SCORES belongs to --RUN=val and --RUN=test, not to {run}")
    if request.new_answers and (request.run != "train" or request.resume or request.checkpoint is None):
        raise ConfigError("--NEW_ANSWERS is for fine-tuning: --RUN=train with --CKPT_PATH, without --RESUME")
    if request.time_limit is not None and (request.run not in LEARNING or not 0 < request.time_limit <= YEAR):
        raise ConfigError(f"--TIME_LIMIT={request.time_limit} must be 1 to {YEAR} minutes of --RUN=train or search")
    if request.run != "search":
        for key in request.overrides:
            if key.startswith("search."):
                raise ConfigError(f"{request.flags.get(key, key)} belongs to --RUN=search, not to {run}")
        return
    if request.geno_path is not None or request.geno_epoch is not None:
        raise ConfigError(f"{run} finds a genotype: leave out --GENO_PATH and --GENO_EPOCH")
    if request.checkpoint is not None and not request.resume:
        raise ConfigError(f"{run} starts a new search, or continues one with --RESUME: leave out --CKPT_PATH")
    if request.overrides.get("training.compile"):
        raise ConfigError(f"{run} runs another network in every step: leave out --COMPILE")
