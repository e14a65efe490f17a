"""`python -m mmnas demo <task>`: the demo world, a tiny network, and what it has learnt beside a guess."""

from mmnas.demo.demos import DEMOS, demo


def add(commands) -> None:
    """Add the command to the parser of `python -m mmnas`."""
    parser = commands.add_parser("demo", help="write the demo world, train a tiny network on it, show its score")
    parser.add_argument("task", nargs="?", default="vqa", choices=[*DEMOS, "search"], help="default: vqa")
    parser.set_defaults(run=lambda options: demo(options.task))
