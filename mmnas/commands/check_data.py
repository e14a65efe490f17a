"""`python -m mmnas check-data <task>`: whether the files that training reads are there, whole, and fit."""

import argparse

from mmnas.tasks import TASKS

# Flags of the task's script, which checks their values; not every task has all.
FLAGS = {
    "--DATASET": "refcoco, refcoco+ or refcocog; flickr or coco",
    "--SPLIT": "what is to be trained on",
    "--FEAT": "grounding: kind of region features",
    "--DATA_PATH": "root of the data (default: ./data)",
    "--FEAT_PATH": "root of the region features (default: below --DATA_PATH)",
    "--WORD_VECTORS": "spaCy vectors (package or directory) or GloVe file",
    "--CFG": "YAML file laid over the shipped one",
}


def add(commands) -> None:
    """Add the command to the parser of `python -m mmnas`."""
    parser = commands.add_parser("check-data", help="check the files of a task before training on them")
    parser.add_argument("task", choices=TASKS)
    for name, text in FLAGS.items():
        parser.add_argument(name, metavar="VALUE", help=text)
    parser.add_argument("--full", action="store_true", help="read the features of every image, not of some")
    parser.set_defaults(run=check_data)


def check_data(options: argparse.Namespace) -> int:
    """Print the report; return 0 when training can start, else 1."""
    from mmnas.config import load_config
    from mmnas.run.cli import parse  # with torch, which would slow down --help
    from mmnas.tasks import task_named
    from mmnas.tasks.checks import check_data as check

    task = task_named(options.task)
    values = {name: getattr(options, name[2:]) for name in FLAGS}
    given = [f"{name}={value}" for name, value in values.items() if value is not None]
    request = parse(task, ["--RUN=train", *given])
    split, overrides = request.split or task.splits[0], request.overrides
    config = load_config(task.name, "small", split=split, version="", overrides=overrides, file=request.file)
    return 0 if check(task.settle(config), options.full, print) else 1
