"""`python -m mmnas export`: a trained model as a folder that can be given to others."""

import argparse
from pathlib import Path
from typing import Any

from mmnas.config import SIZES, PathsConfig
from mmnas.errors import ConfigError
from mmnas.tasks import TASKS

# Settings of released weights that one flag is worth, by the flag; others go by --cfg.
_SETTINGS = {"dataset": "data.dataset", "feat": "data.feature_kind"}


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
    group = parser.add_argument_group("released weights", "what a file of weights alone does not tell")
    group.add_argument("--vocabulary-from", metavar="DIR", help="the data: what --DATA_PATH is for training")
    group.add_argument("--task", choices=TASKS, help="if omitted, told from the weights")
    group.add_argument("--size", "--MODEL", choices=SIZES, help="size of the network; if omitted, told from them")
    group.add_argument("--geno-path", "--GENO_PATH", help="genotype; if omitted, the published one of the task")
    group.add_argument("--dataset", "--DATASET", help="such as refcoco+ for grounding, coco for matching")
    group.add_argument("--feat", "--FEAT", help="kind of region features, for grounding")
    group.add_argument("--cfg", "--CFG", dest="file", help="YAML file that overrides the defaults")
    parser.set_defaults(run=export)


def export(options: argparse.Namespace) -> int:
    """Export, and print what was written."""
    from mmnas.predict import exported  # with torch, which would slow down --help
    from mmnas.predict.released import complete

    path = exported.find_checkpoint(options.source, options.logs)
    told = {name: getattr(options, name) for name in ("task", "size", "geno_path", "file")}
    settings = {key: value for name, key in _SETTINGS.items() if (value := getattr(options, name)) is not None}
    if options.vocabulary_from is None and (settings or any(told.values())):
        raise ConfigError("--task, --size and the like are for released weights: give --vocabulary-from with them")
    model = exported.export(path, complete(path, options.vocabulary_from, **told, overrides=settings), options.out)
    words = ", ".join(f"{len(words)} {name}" for name, words in model.vocabularies.items())
    print(f"{options.out}: {model.task.name} from {path}, {words}")
    return 0
