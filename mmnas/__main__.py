"""`python -m mmnas <command>`: what there is besides training and scoring."""

import argparse
import sys
from collections.abc import Sequence

from mmnas.data.demo_world import write_world
from mmnas.demo import DEMOS, demo
from mmnas.errors import MMNasError, one_line


def _make_world(options: argparse.Namespace) -> int:
    counts = write_world(options.out, options.images, options.seed)
    print(f"{options.out}: " + ", ".join(f"{value} {name}" for name, value in counts.items()))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mmnas", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    shown = commands.add_parser("demo", help="write the demo world, train a tiny network on it, show its score")
    shown.add_argument("task", nargs="?", default="vqa", choices=list(DEMOS), help="default: vqa")
    shown.set_defaults(run=lambda options: demo(options.task))
    world = commands.add_parser("make-world", help="write a small world in the real file formats")
    world.add_argument("out", help="the data root to write")
    world.add_argument("--images", type=int, default=400, help="number of scenes (default: 400)")
    world.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default: 0)")
    world.set_defaults(run=_make_world)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code, 2 after a user's error."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (MMNasError, OSError) as exception:
        print(f"error: {one_line(exception)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
