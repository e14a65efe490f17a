"""`python -m mmnas report VERSION...`: one HTML file on one or more runs."""

import argparse
from typing import Any

from mmnas.errors import safe


def add(commands: Any) -> None:
    """Add the command to the parser of `python -m mmnas`."""
    parser = commands.add_parser("report", help="write a page on one run, or compare several")
    parser.add_argument("versions", nargs="+", metavar="VERSION", help="a run's --VERSION")
    parser.add_argument("--out", default="report.html", metavar="FILE", help="the page (default: report.html)")
    parser.add_argument("--logs", default="./logs", help="root of the logs (default: ./logs)")
    parser.add_argument("--images", metavar="DIR", help="folder of the data set's images, for examples")
    parser.add_argument("--DATA_PATH", metavar="DIR", help="root of the data (default: that of the results)")
    parser.set_defaults(run=report)


def report(options: argparse.Namespace) -> int:
    """Write the page."""
    from mmnas.predict.report import write_report  # with torch, which would slow down --help

    write_report(options.versions, options.out, options.logs, options.images, options.DATA_PATH)
    print(f"report: {safe(options.out)}")
    return 0
