"""`python -m mmnas predict`: ask a trained model about images."""

import argparse
import sys
from pathlib import Path
from typing import Any

from mmnas.errors import ConfigError, safe

TEXTS = ("question", "expression", "caption")


def add(commands: Any) -> None:
    """Add the command to the parser of `python -m mmnas`."""
    parser = commands.add_parser("predict", help="ask a trained model about images")
    parser.description = (
        "Print what a model says about images as JSON lines; every text is asked about every image. Captions "
        "and images in number give rankings. Images need a --detector, or their --features."
    )
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help="image files, folders, patterns in quotes, .npz files"
    )
    help_ = "trained or exported model; the predictions of several are averaged"
    parser.add_argument("--ckpt", nargs="+", action="extend", required=True, metavar="FILE", help=help_)
    for key, task in zip(TEXTS, ("VQA", "grounding", "matching"), strict=True):
        parser.add_argument(f"--{key}", action="append", metavar="TEXT", help=f"text for {task}; may be repeated")
    help_ = 'pairs, one per line: {"image": "a.jpg", "question": "..."}'
    parser.add_argument("--input", type=Path, metavar="FILE.jsonl", help=help_)
    parser.add_argument("--detector", metavar="FILE", help="the detector's weights, in any layout")
    help_ = "for released weights: the data that they were trained on, which has their words"
    parser.add_argument("--vocabulary-from", metavar="DIR", help=help_)
    help_ = "features instead of a detector: a folder of .npz files, or a store"
    parser.add_argument("--features", metavar="PATH", help=help_)
    help_ = "where features of images are kept (default: ~/.cache/mmnas)"
    parser.add_argument("--cache", metavar="DIR", help=help_)
    parser.add_argument("--top", type=int, default=5, help="answers, boxes or ranks to show (default: %(default)s)")
    parser.add_argument("--regions", action="store_true", help="also print box and weight of each region")
    parser.add_argument("--out", type=Path, metavar="DIR", help="draw a picture of each prediction here")
    help_ = "also write the attention of every block to --out, as .npz"
    parser.add_argument("--attention", action="store_true", help=help_)
    parser.add_argument("--block", help="draw the attention of this block, such as encoder.3; implies --attention")
    parser.add_argument("--device", default="cpu", help="such as cuda (default: %(default)s)")
    parser.set_defaults(run=predict)


def predict(options: argparse.Namespace) -> int:
    """Ask; return 2 when a pair could not be answered."""
    from mmnas.detector.extraction import parse_devices  # slow to import
    from mmnas.predict.asking import Writer, ask, rank, read_pairs, text_key
    from mmnas.predict.loaded import load

    checkpoints, images = _told_apart(options.ckpt, options.images)
    given = [key for key in TEXTS if getattr(options, key)]
    if bool(given) == bool(options.input) or len(given) > 1 or bool(images) == bool(options.input):
        raise ConfigError("name images and one of --question, --expression and --caption, or --input alone")
    attention = options.attention or options.block is not None
    if options.top < 1 or (attention and options.out is None):
        raise ConfigError("--top must be at least 1" if options.top < 1 else "--attention needs --out, a folder")
    parse_devices(options.device)
    model = load(
        checkpoints,
        options.detector,
        options.device,
        features=options.features,
        cache=options.cache,
        vocabulary_from=options.vocabulary_from,
    )
    key = text_key(model)
    if given and given != [key]:
        raise ConfigError(f"--{given[0]} is not for a checkpoint of {model.task.name}, which reads --{key}")
    writer = Writer(options.out, options.regions, options.block)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    if options.input:
        ask(model, read_pairs(options.input, key), writer, options.top, attention)
    else:
        names, texts = _files(images), getattr(options, key)
        if key == "caption" and len(names) * len(texts) > 1 and not attention:
            rank(model, names, texts, writer, options.top)
        else:
            ask(model, [(name, text) for name in names for text in texts], writer, options.top, attention)
    for failure in writer.failures:
        print(safe(f"error: {failure.image}, {failure.text}: {failure.reason}"), file=sys.stderr)
    return 2 if writer.failures else 0


def _told_apart(checkpoints: list[str], images: list[str]) -> tuple[list[str], list[str]]:
    """Take the images that follow `--ckpt FILE` from the checkpoints: those are .pkl files or exported folders."""
    own = [path for path in checkpoints if path.endswith(".pkl") or Path(path, "config.json").is_file()]
    own = own or checkpoints[:1]
    return own, [path for path in checkpoints if path not in own] + images


def _files(images: list[str]) -> list[str]:
    """Return the images that files, folders and patterns name; a file that is missing fails by itself later."""
    from mmnas.detector.images import find_images

    found: list[str] = []
    if "" in images:
        raise ConfigError("an image has no name: check the quotes and patterns of the command")
    for name in images:
        listed = not name.endswith(".npz") and (Path(name).is_dir() or any(sign in name for sign in "*?["))
        found += map(str, find_images([name], same_names=True)) if listed else [name]
    return found
