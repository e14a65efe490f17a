"""One run from a settled plan to its files: train, or score a split and write the result."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from msgspec import structs

from mmnas.config import TrainingConfig
from mmnas.engine import checkpoint as checkpoints
from mmnas.engine.checkpoint import Checkpoint, checkpoints_in
from mmnas.engine.distributed import Group
from mmnas.engine.evaluator import Evaluator
from mmnas.engine.fingerprint import fingerprint, require_same
from mmnas.engine.loading import dismiss_workers, look_at
from mmnas.engine.logging import Scalars, drop_log_file, start_logging
from mmnas.engine.stopping import InterruptedRun, StopSignal, explained
from mmnas.engine.trainer import Trainer
from mmnas.engine.weights import network_with
from mmnas.errors import CheckpointError, MissingData, MMNasError
from mmnas.files import remove_empty
from mmnas.models.cpu import use_cpu_kernels
from mmnas.models.gpu import use_gpu_kernels
from mmnas.models.network import MMNasNet
from mmnas.models.precision import use_precision
from mmnas.run.lock import locked
from mmnas.run.plan import Plan, check_folder
from mmnas.run.results import check_earlier, warn_if_other_features, warn_if_seen, write_result
from mmnas.search.searcher import Searcher
from mmnas.tasks.base import Task

log = logging.getLogger(__name__)

ANSWER_LAYER = "head.classifier"
# What learns, by the value of --RUN.
LOOPS: dict[str, type[Trainer] | type[Searcher]] = {"train": Trainer, "search": Searcher}


def run(group: Group, task_class: type[Task], plan: Plan) -> int:
    """Carry out a plan in one process of the group; return the exit code."""
    version = group.from_first(plan.config.version)  # processes of torchrun plan, and name the run, each by itself
    plan = dataclasses.replace(plan, config=structs.replace(plan.config, version=version))
    try:
        with locked(plan.folder) if plan.run in LOOPS and group.rank == 0 else contextlib.nullcontext():
            check_folder(plan)  # again, now that no other run can write into it
            with _logging(plan, group):
                _announce(plan, group)
                task = task_class(plan.config)
                with _listing_missing_data(task):
                    model = prepare(task, plan).to(group.device)
                _choose_kernels(model, group.device.type, plan.config.training)
                try:
                    with _listing_missing_data(task):
                        (_learn if plan.run in LOOPS else _evaluate)(task, model, plan, group)
                finally:  # before anything that holds workers is deleted, which would wait for them
                    dismiss_workers()
    except InterruptedRun as exception:
        log.info("%s", exception)
        return 128 + exception.number
    except (MMNasError, OSError, RuntimeError) as exception:
        told = explained(exception) if isinstance(exception, RuntimeError) else exception
        if told is None:
            raise
        log.debug("error: %s", told)  # for the log file; whoever started the run says it on the terminal
        raise told from None
    return 0


@contextlib.contextmanager
def _logging(plan: Plan, group: Group) -> Iterator[None]:
    """Log inside; a run that fails before it trains leaves no new log file behind."""
    files = plan.config.files
    new = group.rank == 0 and not files.log.exists()
    start_logging(group.rank, files.log)
    try:
        yield
    except BaseException:
        if new and not files.events.exists():
            drop_log_file()
            files.log.unlink(missing_ok=True)
            remove_empty(files.log.parent)
        raise


def _choose_kernels(model: MMNasNet, device: str, training: TrainingConfig) -> None:
    """Make the network fast on the device by other modules than the plain ones."""
    if device == "cpu" and not training.compile:
        use_cpu_kernels(model)
    elif device == "cuda" and training.joined_kernels:
        use_gpu_kernels(model)


@contextlib.contextmanager
def _listing_missing_data(task: Task) -> Iterator[None]:
    """Where data is missing, also say whether features are, and what lists everything."""
    try:
        yield
    except MissingData as exception:
        faults = [str(exception)]
        for look in task.sources():
            try:
                look()
            except MissingData as other:
                if str(other) not in faults[0]:
                    faults.append(str(other))
        every = "; ".join(faults)
        raise MissingData(
            f"{every}; `mmnas check-data {task.name}`, with the data flags of this run, lists all"
        ) from None


def prepare(task: Task, plan: Plan) -> MMNasNet:
    """Settle the vocabularies, build the network, load its weights."""
    torch.manual_seed(plan.config.training.seed)
    use_precision(plan.config.training.precision)
    if plan.checkpoint:
        task.use_vocabularies(plan.checkpoint.vocabularies)
    else:
        task.vocabularies = task.build_vocabularies()
    if plan.source is None:
        return task.build_model(plan.genotype, pretrained_words=True)
    task.weights = str(plan.source.path)
    if plan.new_answers:
        task.vocabularies["answers"] = task.build_vocabularies()["answers"]
    build = partial(task.build_model, plan.genotype, pretrained_words=False)
    fresh = ANSWER_LAYER if plan.new_answers else None
    return network_with(build, plan.source.content, plan.source.path, task.explain_misfit, fresh)


def _announce(plan: Plan, group: Group) -> None:
    config = plan.config
    processes = f"{group.size} processes" if group.size > 1 else "one process"
    source = f" from {plan.source.path}" if plan.source else ""
    log.info(
        "%s %s, size %s, version %s%s; %s on %s",
        plan.run, config.task, config.size, config.version, source, processes, group.device.type,
    )  # fmt: skip
    if plan.run == "train" and plan.source and not plan.resume:
        log.info(
            "fine-tuning on %s under %s; words, %sgenotype and sizes stay those of the checkpoint",
            config.split, config.paths.data, "" if plan.new_answers else "answers, ",
        )  # fmt: skip
    log.debug("configuration: %s", config.to_dict())


def _learn(task: Task, model: MMNasNet, plan: Plan, group: Group) -> None:
    loop = LOOPS[plan.run](task, model, plan.genotype, group, plan.folder, plan.keep_all)
    log.info(
        "%d training samples, %d steps per epoch; %s",
        loop.sampler.size,
        len(loop.sampler),
        ", ".join(f"{len(words)} {name}" for name, words in task.vocabularies.items()),
    )
    if plan.resume and plan.source and plan.checkpoint:
        loop.restore(plan.checkpoint, plan.source.path)
        loop.seen_splits, loop.written = plan.seen_splits, files_of_run(plan) if group.rank == 0 else set()
    else:
        loop.seen_splits = [*loop.seen_splits, *plan.seen_splits]
        warn_if_other_features(task, plan)
    if task.scores_val:
        warn_if_seen("val", loop.seen_splits)
    task.check_samples(look_at(loop.dataset))
    scalars = Scalars(plan.config.files.events, group.rank)
    try:
        loop.fit(scalars, plan.deadline)
    finally:
        scalars.close()
    best = checkpoints.best_epoch(loop.history, task.headline)
    if best is not None:
        score = next(row["metrics"][task.headline] for row in loop.history if row["epoch"] == best)
        log.info("best on val: epoch %d, %s %.2f; score it by --CKPT_PATH=best", best, task.headline, score)


def _evaluate(task: Task, model: MMNasNet, plan: Plan, group: Group) -> None:
    task.keeps_scores = plan.scores
    for split in task.splits_of(plan.run) if group.rank == 0 else ():
        check_earlier(task, plan, split)
    with StopSignal() as stop, stop.at_once():
        for split in task.splits_of(plan.run):
            evaluator = Evaluator(task, split, group)
            warn_if_other_features(task, plan)
            if plan.source and plan.checkpoint and group.rank == 0:
                require_same({split: fingerprint(evaluator.dataset)}, plan.checkpoint, plan.source.path)
            result = evaluator.run(model)
            if group.rank == 0:
                write_result(result, task, plan, split, evaluator.samples, group.size)


def files_of_run(plan: Plan) -> set[str]:
    """Return the names of the checkpoints in a resumed run's folder that the same run has written."""
    names = set()
    for path in checkpoints_in(plan.folder):
        with contextlib.suppress(CheckpointError):  # of damaged ones, which are left alone
            found = checkpoints.load_checkpoint(path)
            (fixed, losses), (own, all_losses) = _identity(found), _identity(plan.checkpoint)
            if fixed == own and losses == all_losses[: len(losses)]:
                names.add(path.name)
    return names


def _identity(checkpoint: Any) -> tuple[list[Any], list[float]]:
    """Return what stays the same while a run goes on, and the losses of its epochs so far."""
    if not isinstance(checkpoint, Checkpoint):
        return [], []
    config, genotype = checkpoints.settings_of("checkpoint", checkpoint)
    fixed = [config.split, config.training.seed, config.model, config.data, genotype, checkpoint.vocabularies]
    return fixed, [row["loss"] for row in checkpoint.history]
