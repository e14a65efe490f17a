"""The command line `mmnas`: training, scoring and searching, and the commands around them.

`python -m mmnas` does the same where the console command is not on the path.
"""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from mmnas.engine.logging import protect_terminal
from mmnas.errors import MMNasError, one_line, require_posix, safe
from mmnas.version import __version__

# The modules of `mmnas/commands`, in the order in which --help shows them.
COMMANDS = """
    train predict report ensemble export web demo make_world show_arch plot_search check_data check_submission
    pack_features extract_features convert_detector
""".split()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(safe(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mmnas",
        description="Multimodal neural architecture search for VQA, visual grounding and image-text matching.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mmnas {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    for name in COMMANDS:
        importlib.import_module(f"mmnas.commands.{name}").add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 2 after a user's mistake. Without a command, print the help."""
    protect_terminal()
    require_posix()
    protect_terminal()
    try:
        parser = _parser()
        options = parser.parse_args(arguments)
        if options.command is None:
            parser.print_help()
            return 0
        code = options.run(options)
        sys.stdout.flush()  # here, where a closed pipe is caught
        return code
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (MMNasError, OSError, MemoryError, RuntimeError) as exception:
        print(f"error: {one_line(exception)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
