"""`python -m mmnas make-world`: a small world in the real file formats."""

import argparse

from mmnas.demo.world import write_world


def add(commands) -> None:
    """Add the command to the parser of `python -m mmnas`."""
    parser = commands.add_parser("make-world", help="write a small world in the real file formats")
    parser.add_argument("out", help="the data root to write")
    parser.add_argument("--images", type=int, default=400, help="number of scenes (default: 400)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default: 0)")
    parser.set_defaults(run=make_world)


def make_world(options: argparse.Namespace) -> int:
    """Write the world and say what it holds."""
    counts = write_world(options.out, options.images, options.seed)
    print(f"{options.out}: " + ", ".join(f"{value} {name}" for name, value in counts.items()))
    return 0
