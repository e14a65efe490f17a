"""`mmnas train <task>`: what the script `train_<task>.py` does, from anywhere."""

import argparse
import signal
from typing import Any


def add(commands: Any) -> None:
    """Add the command to the parser of `mmnas`."""
    parser = commands.add_parser(
        "train",
        help="train, score or search: the same as the script train_TASK.py",
        usage="%(prog)s TASK --RUN=train|val|test|search [flags]",
    )
    parser.add_argument("task", metavar="TASK", help="vqa, vgd or itm; `mmnas train TASK --help` lists its flags")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.set_defaults(run=train)


def train(options: argparse.Namespace) -> int:
    """Run the task's command line; return its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `main` handles Ctrl-C: loading torch takes a second
    from mmnas.run.cli import main
    from mmnas.tasks import task_named  # with torch, which would slow down --help

    return main(task_named(options.task), options.flags)
