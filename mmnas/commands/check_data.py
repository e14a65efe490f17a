"""`python -m mmnas check-data <task>`: whether the files that training reads are there, whole, and fit."""

import argparse
from typing import Any

from mmnas.tasks import TASKS


def add(commands: Any) -> None:
    """Add the command to the parser of `python -m mmnas`."""
    parser = commands.add_parser("check-data", help="check the files of a task before training on them")
    parser.add_argument("--full", action="store_true", help="read the features of every image, not of a sample")
    parser.add_argument("task", choices=TASKS)
    parser.add_argument(
        "flags",
        nargs=argparse.REMAINDER,
        help="flags of the task's script, such as --DATA_PATH, --SPLIT and --CFG; "
        "`train_<task>.py --help` lists them",
    )
    parser.set_defaults(run=check_data)


def check_data(options: argparse.Namespace) -> int:
    """Print the report; return 0 when training can start, else 1."""
    from mmnas.config import load_config
    from mmnas.data.own import OWN, require_splits
    from mmnas.run.cli import parse  # with torch, which would slow down --help
    from mmnas.run.plan import check_split
    from mmnas.tasks import task_named
    from mmnas.tasks.report import Report

    task = task_named(options.task)
    flags = [flag for flag in options.flags if flag != "--full"]
    request = parse(task, ["--RUN=train", *flags])
    split, overrides = request.split or "", request.overrides
    config = load_config(task.name, "small", split=split, version="", overrides=overrides, file=request.file)
    check_split(task, request, config)
    config = task.settle(config)
    report = Report(print)
    report.line(f"{task.name} {config.data.dataset}".rstrip() + f", to train on {config.split}")
    if config.data.dataset == OWN:
        with report.catching():
            require_splits(config.paths.data, task.name, config.split.split("+"))
    task(config).check(report, options.full or len(flags) < len(options.flags))
    return 0 if report.verdict() else 1
