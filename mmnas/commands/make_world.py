"""`python -m mmnas make-world`: generates a small synthetic data set in the real file formats."""

import argparse

from mmnas.demo.world import write_world
from mmnas.errors import safe


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser of `python -m mmnas`."""
    parser = commands.add_parser("make-world", help="generate a small synthetic data set in the real file formats")
    parser.add_argument("out", help="directory to write, a data root (--DATA_PATH)")
    parser.add_argument("--images", type=int, default=400, help="number of images (default: 400)")
    parser.add_argument("--seed", type=int, default=0, help="random seed; same seed, same bytes (default: 0)")
    parser.set_defaults(run=make_world)


def make_world(options: argparse.Namespace) -> int:
    """Write the world and print what it holds."""
    try:
        counts = write_world(options.out, options.images, options.seed)
    except OSError as exception:
        exception.filename = exception.filename or options.out  # a failed write does not name the file
        raise
    print(f"{safe(options.out)}: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    return 0
