"""One run from a settled plan to its files: train, or score a split and write the result."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmnas.engine.checkpoint import Checkpoint, load_weights, versions
from mmnas.engine.distributed import Group, launch
from mmnas.engine.evaluator import Evaluator
from mmnas.engine.logging import Scalars, start_logging
from mmnas.engine.plan import Plan, Request, make_plan
from mmnas.engine.trainer import InterruptedRun, Trainer
from mmnas.errors import MMNasError
from mmnas.files import write_json
from mmnas.tasks.base import Result, Task

log = logging.getLogger(__name__)


def start(task: type[Task], request: Request) -> int:
    """Carry out a request in as many processes as it names devices; return the exit code."""
    make_plan(task, request)  # what is wrong with the flags is said once, before any process starts
    return launch(_run, request.devices, task, request)


def _run(group: Group, task_class: type[Task], request: Request) -> int:
    """Run in one process of the group."""
    request = dataclasses.replace(request, default_version=group.from_first(request.default_version))
    try:
        plan = make_plan(task_class, request)
        logs = Path(plan.config.paths.logs)
        start_logging(group.rank, logs / "log" / f"log_run_{plan.config.version}.txt")
        _announce(plan, group)
        task = task_class(plan.config)
        model = prepare(task, plan).to(group.device)
        if plan.run == "train":
            _train(task, model, plan, group)
        else:
            _evaluate(task, model, plan, group)
    except InterruptedRun as exception:
        log.info("%s", exception)
        return exception.exit_code
    except MMNasError as exception:
        log.error("error: %s", exception)
        return 2
    return 0


def prepare(task: Task, plan: Plan) -> nn.Module:
    """Settle the vocabularies, build the network, load its weights."""
    torch.manual_seed(plan.config.training.seed)
    if isinstance(plan.checkpoint, Checkpoint):
        task.use_vocabularies(plan.checkpoint.vocabularies)
    else:
        task.vocabularies = task.build_vocabularies()
    model = task.build_model(plan.genotype, pretrained_words=plan.checkpoint is None)
    if plan.checkpoint is not None:
        load_weights(model, plan.checkpoint, plan.checkpoint_path)
    return model


def _announce(plan: Plan, group: Group) -> None:
    config = plan.config
    processes = f"{group.size} processes" if group.size > 1 else "one process"
    source = f" from {plan.checkpoint_path}" if plan.checkpoint_path else ""
    log.info(
        "%s %s, size %s, version %s%s; %s on %s",
        plan.run, config.task, config.size, config.version, source, processes, group.device.type,
    )  # fmt: skip
    log.debug("configuration: %s", config.to_dict())


def _train(task: Task, model: nn.Module, plan: Plan, group: Group) -> None:
    trainer = Trainer(task, model, plan.genotype, group, plan.folder, plan.keep_all)
    log.info(
        "%d training samples, %d steps per epoch; %s",
        trainer.sampler.size,
        len(trainer.sampler),
        ", ".join(f"{len(words)} {name}" for name, words in task.vocabularies.items()),
    )
    if plan.resume:
        trainer.restore(plan.checkpoint, plan.checkpoint_path)
    scalars = Scalars(Path(plan.config.paths.logs) / "tensorboard" / plan.config.version, group.rank)
    try:
        trainer.fit(scalars)
    finally:
        scalars.close()


def _evaluate(task: Task, model: nn.Module, plan: Plan, group: Group) -> None:
    evaluator = Evaluator(task, plan.run, group)
    result = evaluator.run(model)
    if group.rank == 0:
        write_result(result, task, plan, evaluator.samples)
    group.barrier()


def write_result(result: Result, task: Task, plan: Plan, samples: int) -> Path:
    """Write predictions, metrics and provenance; return the path of the predictions."""
    folder = Path(plan.config.paths.logs) / "ckpts" / f"result_{plan.run}"
    path = folder / f"result_run_{plan.config.version}.json"
    write_json(path, result.predictions)
    if result.metrics:
        write_json(path.with_suffix(".metrics.json"), result.metrics, indent=1)
    write_json(path.with_suffix(".meta.json"), _provenance(result, task, plan, samples), indent=1)
    seen = plan.run == "val" and not task.scores_val
    if seen:
        log.warning("val was trained on (--SPLIT=%s): this is no held-out score", plan.config.split)
    for name, value in result.summary.items():
        log.info("%-12s %6.2f%s", name, value, "  (trained on)" if seen else "")
    log.info("result: %s", path)
    return path


def _provenance(result: Result, task: Task, plan: Plan, samples: int) -> dict[str, Any]:
    config = plan.config
    return {
        "task": config.task,
        "size": config.size,
        "trained_on": config.split,
        "scored_on": plan.run,
        "scored_split_was_trained_on": plan.run == "val" and not task.scores_val,
        "summary": result.summary,
        "checkpoint": str(plan.checkpoint_path),
        "epochs_trained": getattr(plan.checkpoint, "epoch", None),
        "genotype": plan.genotype.to_dict(),
        "seed": config.training.seed,
        "counts": {
            "samples": samples,
            "predictions": len(result.predictions),
            **{name: len(words) for name, words in task.vocabularies.items()},
        },
        "config": config.to_dict(),
        "versions": versions(),
    }
