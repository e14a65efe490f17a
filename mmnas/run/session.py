"""One run from a settled plan to its files: train, or score a split and write the result."""

import contextlib
import dataclasses
import logging
from functools import partial
from typing import Any

import torch
from msgspec import structs

from mmnas.engine import checkpoint as checkpoints
from mmnas.engine.checkpoint import Checkpoint, checkpoints_in
from mmnas.engine.distributed import Group
from mmnas.engine.evaluator import Evaluator
from mmnas.engine.loading import dismiss_workers, look_at
from mmnas.engine.logging import Scalars, start_logging
from mmnas.engine.stopping import InterruptedRun, explained
from mmnas.engine.trainer import Trainer
from mmnas.engine.weights import network_with
from mmnas.errors import CheckpointError, MMNasError
from mmnas.models.cpu import use_cpu_kernels
from mmnas.models.gpu import use_gpu_kernels
from mmnas.models.network import MMNasNet
from mmnas.models.precision import use_precision
from mmnas.run.lock import locked
from mmnas.run.plan import Plan, check_folder
from mmnas.run.results import check_earlier, warn_if_seen, write_result
from mmnas.search.searcher import Searcher
from mmnas.tasks.base import Task

log = logging.getLogger(__name__)

# What learns, by the value of --RUN.
LOOPS: dict[str, type[Trainer] | type[Searcher]] = {"train": Trainer, "search": Searcher}


def run(group: Group, task_class: type[Task], plan: Plan) -> int:
    """Carry out a plan in one process of the group; return the exit code."""
    version = group.from_first(plan.config.version)  # processes of torchrun plan, and name the run, each by itself
    plan = dataclasses.replace(plan, config=structs.replace(plan.config, version=version))
    try:
        with locked(plan.folder) if plan.run in LOOPS and group.rank == 0 else contextlib.nullcontext():
            check_folder(plan)  # again, now that no other run can write into it
            start_logging(group.rank, plan.config.files.log)
            _announce(plan, group)
            task = task_class(plan.config)
            model = prepare(task, plan).to(group.device)
            if not plan.config.training.compile:
                (use_gpu_kernels if group.device.type == "cuda" else use_cpu_kernels)(model)
            (_learn if plan.run in LOOPS else _evaluate)(task, model, plan, group)
    except InterruptedRun as exception:
        log.info("%s", exception)
        group.barrier()  # no process ends, and has the others ended, before all is said
        return exception.exit_code
    except (MMNasError, OSError, RuntimeError) as exception:
        told = explained(exception) if isinstance(exception, RuntimeError) else exception
        if told is None:
            raise
        log.debug("error: %s", told)  # for the log file; whoever started the run says it on the terminal
        raise told from None
    finally:
        dismiss_workers()
    return 0


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
    build = partial(task.build_model, plan.genotype, pretrained_words=False)
    return network_with(build, plan.source.content, plan.source.path, task.explain_misfit)


def _announce(plan: Plan, group: Group) -> None:
    config = plan.config
    processes = f"{group.size} processes" if group.size > 1 else "one process"
    source = f" from {plan.source.path}" if plan.source else ""
    log.info(
        "%s %s, size %s, version %s%s; %s on %s",
        plan.run, config.task, config.size, config.version, source, processes, group.device.type,
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
        loop.seen_splits, loop.written = plan.seen_splits, files_of_run(plan)
    else:
        loop.seen_splits = [*loop.seen_splits, *plan.seen_splits]
    if task.scores_val:
        warn_if_seen("val", loop.seen_splits)
    look_at(loop.dataset)
    scalars = Scalars(plan.config.files.events, group.rank)
    try:
        loop.fit(scalars, plan.deadline)
    finally:
        scalars.close()


def _evaluate(task: Task, model: MMNasNet, plan: Plan, group: Group) -> None:
    for split in task.splits_of(plan.run) if group.rank == 0 else ():
        check_earlier(task, plan, split)
    for split in task.splits_of(plan.run):
        evaluator = Evaluator(task, split, group)
        result = evaluator.run(model)
        if group.rank == 0:
            write_result(result, task, plan, split, evaluator.samples, group.size)
        group.barrier()


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
