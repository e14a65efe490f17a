"""`python -m mmnas <command>`: what there is besides training and scoring."""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence

from mmnas.errors import MMNasError, one_line

# The modules of `mmnas/commands`, in the order in which --help shows them.
COMMANDS = ("demo", "make_world", "show_arch", "plot_search", "check_data", "check_submission", "pack_features")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mmnas", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name in COMMANDS:
        importlib.import_module(f"mmnas.commands.{name}").add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code, 2 after a user's error."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except BrokenPipeError:  # whoever read the output has seen enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (MMNasError, OSError) as exception:
        print(f"error: {one_line(exception)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
