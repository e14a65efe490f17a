"""`python -m mmnas demo`: trains a tiny network on a synthetic data set and compares it with a guess."""

import argparse

from mmnas.demo.demos import DEMOS, demo


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser of `python -m mmnas`."""
    parser = commands.add_parser("demo", help="train a tiny network on a small synthetic data set, show its score")
    parser.add_argument("name", nargs="?", default="vqa", choices=DEMOS, help="a task, or search (default: vqa)")
    parser.set_defaults(run=lambda options: demo(options.name))
