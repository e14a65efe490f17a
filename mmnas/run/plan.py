"""What a command line asks for, settled once, before any process starts.

A run's settings come from YAML and flags, or from a checkpoint; a flag that contradicts a checkpoint is an error.
"""

import re
import time
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from mmnas.config import VERSION, Config, DataConfig, PathsConfig, load_config, overlaid, read_overrides
from mmnas.data.own import OWN
from mmnas.engine import checkpoint as checkpoints
from mmnas.engine.checkpoint import Checkpoint, CheckpointFile, checkpoints_in, open_checkpoint
from mmnas.errors import CheckpointError, ConfigError
from mmnas.genotype import Genotype, read_genotype
from mmnas.paths import RunPaths
from mmnas.run.flags import LEARNING, Request, check_flags, default_genotype
from mmnas.schema import Text, convert, require_one_of
from mmnas.search.limits import checked_space
from mmnas.tasks.base import Task

# What may differ from the checkpoint without changing what it computes; resuming may also go further.
MACHINE_KEYS = ("workers", "features")  # which no checkpoint says anything about
FREE_KEYS = ("paths.", *map("training.{}".format, (*MACHINE_KEYS, "eval_batch_size", "compile", "joined_kernels")))
FREE_WHEN_RESUMING = ("training.epochs", "search.patience", "search.min_epochs", "search.choose")
SETTLED_BY_DATASET = ("protocol", "answer_min_count")
LONGEST_VERSION = 200
"""Bytes of a run's name: its files add up to 55 to it, and file systems end at 255."""
UNKNOWN = "unknown"
"""Stands in `Checkpoint.seen_splits` for training data that nothing tells about."""


@dataclass(frozen=True)
class Plan:
    """Everything a run needs to know; other processes receive it with the open file of its checkpoint."""

    run: str
    config: Config
    genotype: Genotype
    source: CheckpointFile | None = None
    resume: bool = False
    keep_all: bool = False
    named: bool = True
    """Whether the user chose the version."""
    scores: bool = False
    """Whether scoring writes the scores of all answers or boxes, too."""
    new_answers: bool = False
    """Whether fine-tuning starts a new answer list and last layer."""
    deadline: float | None = None
    """The time, in seconds since the epoch, at which to save and stop."""

    @property
    def checkpoint(self) -> Checkpoint | None:
        """What the run starts from; None for nothing, and for released weights, which are weights alone."""
        return self.source.own if self.source else None

    @property
    def folder(self) -> Path:
        """Where the run's checkpoints lie."""
        return self.config.files.checkpoints

    @property
    def seen_splits(self) -> list[str]:
        """The values of --SPLIT that the weights have seen before this run; `UNKNOWN` where nothing tells."""
        if self.checkpoint is None:
            return [UNKNOWN] if self.source else []
        seen = self.checkpoint.seen_splits or [self.checkpoint.config["split"], UNKNOWN]
        dataset = self.checkpoint.config["data"].get("dataset", "")
        if dataset in ("", self.config.data.dataset):
            return seen
        return [each if each == UNKNOWN else _of(dataset, each) for each in seen]


def _of(dataset: str, split: str) -> str:
    """Name a value of --SPLIT as that of another data set."""
    return "+".join(part if " of " in part else f"{part} of {dataset}" for part in split.split("+"))


def default_size(run: str) -> str:
    """Return the size of the network when --MODEL is left out."""
    return "search" if run == "search" else "small"


def make_plan(task: type[Task], request: Request) -> Plan:
    """Settle a request. Raises `ConfigError` or `CheckpointError`, before anything is written."""
    check_flags(request)
    if request.new_answers and "answers" not in task.vocabulary_names:
        raise ConfigError(f"--NEW_ANSWERS is for VQA; {task.name} has no answers")
    request = _with_file(request)
    path = _checkpoint_path(request, task)
    version = _version(request, path)
    source = None if path is None else open_checkpoint(path)
    if source and source.own:
        config, genotype = _from_checkpoint(task, request, source.own, source.path, version)
    elif source and request.resume:
        raise CheckpointError(f"{path} holds released weights, nothing to resume: leave out --RESUME to fine-tune")
    else:
        config = _configuration(task, request, request.size or default_size(request.run), version)
        if request.run == "search":
            genotype = checked_space(config)
        else:
            genotype = read_genotype(request.geno_path or default_genotype(task), request.geno_epoch)
    check_split(task, request, config)
    named = request.version is not None
    deadline = None if request.time_limit is None else time.time() + 60 * request.time_limit
    switches = request.resume, request.keep_all, named, request.scores, request.new_answers
    plan = Plan(request.run, config, genotype, source, *switches, deadline)
    check_folder(plan)
    return plan


def check_split(task: type[Task], request: Request, config: Config) -> None:
    """Raise `ConfigError` for a --SPLIT that a published data set lacks; one's own data names its splits itself."""
    if request.split and config.data.dataset != OWN:
        require_one_of("--SPLIT", request.split, task.splits)


def check_folder(plan: Plan) -> None:
    """Refuse to lose what runs of that version have left; also asked once the folder is locked."""
    found, path = checkpoints_in(plan.folder), plan.source.path if plan.source else None
    if plan.resume and plan.checkpoint and path and path.resolve().parent == plan.folder.resolve():
        reached = (plan.checkpoint.epoch, plan.checkpoint.step)
        later = [each.name for each in found if checkpoints.moment_of(each) > reached]
        if later:
            raise ConfigError(
                f"{plan.folder} holds checkpoints later than {path}, such as {later[-1]}: "
                "resume the newest, or give what follows another --VERSION"
            )
    elif plan.run in LEARNING and found:
        raise ConfigError(
            f"{plan.folder} holds checkpoints of another run: continue that by --RESUME without --CKPT_PATH, "
            "or choose another --VERSION"
        )
    elif plan.run == "search" and plan.config.files.genotypes.exists():
        raise ConfigError(f"{plan.config.files.genotypes} exists: choose another --VERSION for these genotypes")


def _with_file(request: Request) -> Request:
    """Read the `--CFG` file, the one time that this is done; flags override it."""
    settings = read_overrides(request.file)
    flags = {**{key: f"--CFG {key}" for key in settings}, **request.flags}
    return replace(request, file=None, overrides={**settings, **request.overrides}, flags=flags)


def _checkpoint_path(request: Request, task: type[Task]) -> Path | None:
    """Return the checkpoint a request means: --CKPT_PATH, else the newest of its version."""
    named = request.checkpoint in ("best", "last")
    if request.checkpoint is not None and not named:
        return Path(request.checkpoint)
    if request.run in LEARNING and not request.resume:
        if named:
            raise ConfigError(
                f"--CKPT_PATH={request.checkpoint} is for scoring and --RESUME; name the file to fine-tune"
            )
        return None
    if request.version is None:
        raise ConfigError(f"--RUN={request.run} needs a trained model: name its --VERSION or its --CKPT_PATH")
    logs = convert(request.overrides.get("paths.logs", PathsConfig().logs), Text, "paths.logs")
    folder = RunPaths(logs, request.version).checkpoints
    found = checkpoints_in(folder)
    if not found:
        raise CheckpointError(
            f"no checkpoint in {folder}: train --VERSION={request.version} first, or give --CKPT_PATH"
        )
    return _best_of(found, task) if request.checkpoint == "best" else found[-1]


def _best_of(found: list[Path], task: type[Task]) -> Path:
    """Return the checkpoint of a run after the epoch that scored best on val."""
    newest = open_checkpoint(found[-1]).own
    best = checkpoints.best_epoch(newest.history, task.headline) if newest else None
    path = found[-1].with_name(checkpoints.checkpoint_name(best or -1, 0))
    if path not in found:
        raise CheckpointError(f"{path.parent} holds no checkpoint that was scored best: use --CKPT_PATH=last")
    return path


def is_version(name: str) -> bool:
    """Whether a run may have this name, which becomes part of file names."""
    return VERSION.fullmatch(name) is not None and len(name.encode()) <= LONGEST_VERSION


def _version(request: Request, path: Path | None) -> str:
    """Return the run's name: --VERSION, or that of the checkpoint's file or folder; never what it holds."""
    if request.version is not None or path is None or (request.run == "train" and not request.resume):
        return request.version or request.default_version
    name = path.absolute().parent.name.removeprefix("ckpt_") if request.resume else path.stem
    name = re.sub(r"[^\w.+=@-]", "_", name)
    if not is_version(name):
        raise ConfigError(f"{path} gives no name for the files to write: choose one by --VERSION")
    return name


def _configuration(task: type[Task], request: Request, size: str, version: str) -> Config:
    """Return what YAML and flags say."""
    split = request.split or ("train" if request.run == "search" else "")
    return task.settle(load_config(task.name, size, split=split, version=version, overrides=request.overrides))


def _from_checkpoint(
    task: type[Task], request: Request, checkpoint: Checkpoint, path: Path, version: str
) -> tuple[Config, Genotype]:
    """Return what the checkpoint was trained with, but for what it says about the machine: paths and workers."""
    trained, genotype = checkpoints.settings_of(path, checkpoint)
    if trained.task != task.name:
        raise CheckpointError(f"{path} is of the task {trained.task}: use train_{trained.task}.py")
    trained = task.settle(trained)
    if checkpoint.search and request.run != "search":
        raise CheckpointError(
            f"{path} is of a search: continue it with --RUN=search, or train what it found, "
            f"--GENO_PATH={trained.files.genotypes}"
        )
    if request.run == "search" and not checkpoint.search:
        raise CheckpointError(f"{path} is of a training run, which --RUN=search cannot continue")
    if request.geno_path is not None and read_genotype(request.geno_path, request.geno_epoch) != genotype:
        raise CheckpointError(
            f"--GENO_PATH={request.geno_path} contradicts {path}, which holds its own genotype: leave the flag out"
        )
    tuning = request.run == "train" and not request.resume
    held = {**trained.to_dict(), "version": version, "paths": {}}
    held["training"] = {key: value for key, value in held["training"].items() if key not in MACHINE_KEYS}
    dataset = request.overrides.get("data.dataset", trained.data.dataset)
    if dataset != trained.data.dataset:
        held["data"] |= {key: getattr(DataConfig(), key) for key in SETTLED_BY_DATASET}
    asked = Config.from_dict(overlaid(held, request.overrides))
    fixed = [("--MODEL", request.size or trained.size, trained.size)]
    if not tuning:
        fixed.append(("--SPLIT", request.split or trained.split, trained.split))
    free = (*FREE_KEYS, *task.free_keys, *(FREE_WHEN_RESUMING if request.resume else ()))
    free += ("data.answer_min_count",) if request.new_answers else ()
    free += ("data.dataset",) if tuning or (dataset == OWN and not request.resume) else ()
    for key in request.overrides:
        if not key.startswith((*free, "training.", "search.") if tuning else free):
            fixed.append((request.flags.get(key, key), asked.value(key), trained.value(key)))
    for flag, given, kept in fixed:
        if given != kept:
            raise CheckpointError(
                f"{flag}={given} contradicts {path}, which was trained with {'none' if kept == '' else kept}: "
                "leave the flag out, or start a new run"
            )
    if tuning:
        overrides = {"data.dataset": dataset, **request.overrides}
        new = _configuration(task, replace(request, overrides=overrides), trained.size, version)
        return task.settle(replace(new, model=asked.model, data=asked.data)), genotype
    return task.settle(asked), genotype
