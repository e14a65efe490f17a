"""`python -m mmnas ensemble RESULT... OUT`: average the scores of several results into a new one."""

import argparse
from typing import Any

from mmnas.errors import safe


def add(commands: Any) -> None:
    """Add the command to the parser of `python -m mmnas`."""
    parser = commands.add_parser("ensemble", help="average the scores of several results")
    parser.add_argument("results", nargs="+", metavar="RESULT", help="a file that --RUN=val|test --SCORES wrote")
    parser.add_argument("out", metavar="OUT", help="the new result, a .json file")
    parser.add_argument("--DATA_PATH", metavar="DIR", help="root of the data (default: that of the first result)")
    parser.set_defaults(run=ensemble)


def ensemble(options: argparse.Namespace) -> int:
    """Write the new result and print its figures."""
    from mmnas.predict.ensemble import combine  # with torch, which would slow down --help

    result = combine(options.results, options.out, options.DATA_PATH)
    for name, value in result.summary.items():
        print(f"{safe(name):<12} {value:6.2f}")
    print(f"result: {safe(options.out)}")
    return 0
