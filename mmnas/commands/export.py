"""`python -m mmnas export`: a trained model as a folder that can be given to others."""

import argparse
from pathlib import Path
from typing import Any

from mmnas.config import PathsConfig
from mmnas.tasks import TASKS

# What released weights do not tell: the flag here, that of the task's script, and its help.
_FLAGS = {
    "--size": ("--MODEL", "size of the network; if omitted, told from the weights"),
    "--geno-path": ("--GENO_PATH", "genotype; if omitted, the published one of the task"),
    "--dataset": ("--DATASET", "such as refcoco+ for grounding, coco for matching"),
    "--feat": ("--FEAT", "kind of region features, for grounding"),
    "--cfg": ("--CFG", "YAML file that overrides the defaults"),
}


def add(commands: Any) -> None:
    """Add the command to the parser of `python -m mmnas`."""
    parser = commands.add_parser("export", help="export a trained model: weights, settings, words and a model card")
    parser.description = (
        "Write a folder with model.safetensors, config.json and README.md, which loads like a checkpoint. Released "
        "weights become complete: their words are read from the data that they were trained on."
    )
    parser.add_argument("source", metavar="VERSION", help="name of a run, of which the best checkpoint; or a path")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write")
    parser.add_argument("--logs", default=PathsConfig().logs, help="where runs are (default: %(default)s)")
    group = parser.add_argument_group("released weights")
    group.add_argument("--vocabulary-from", metavar="DIR", help="the data: what --DATA_PATH is for training")
    group.add_argument("--task", choices=TASKS, help="if omitted, told from the weights")
    for name, (flag, text) in _FLAGS.items():
        group.add_argument(name, flag, dest=flag, metavar="TEXT", help=text)
    parser.set_defaults(run=export)


def export(options: argparse.Namespace) -> int:
    """Export, and print what was written."""
    from mmnas.predict import exported  # with torch, which would slow down --help
    from mmnas.predict.networks import complete

    path, values = exported.find_checkpoint(options.source, options.logs), vars(options)
    flags = [f"{flag}={values[flag]}" for flag, _ in _FLAGS.values() if values[flag] is not None]
    checkpoint = complete(path, options.vocabulary_from, options.task, flags)
    exported.export(path, checkpoint, options.out)
    print(f"{options.out}: {checkpoint.config['task']} from {path}")
    return 0
