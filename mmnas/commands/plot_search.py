"""`python -m mmnas plot-search`: a search's probabilities and loss over the epochs, as a picture and a table."""

import argparse
from collections.abc import Iterator

from mmnas.errors import safe
from mmnas.paths import RunPaths
from mmnas.search.drawing import STREAM_NAMES, save_png, short_name
from mmnas.search.history import STREAMS, SearchHistory, entropy, margin, read_history
from mmnas.search.picture import draw_search


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command to the parser of `python -m mmnas`."""
    parser = commands.add_parser("plot-search", help="draw a search's probabilities and loss over the epochs")
    parser.add_argument("version", help="the search's --VERSION")
    parser.add_argument("--logs", default="./logs", help="root of the logs (default: ./logs)")
    parser.add_argument("--png", help="file for the picture (default: <logs>/log/search_<version>.png)")
    parser.set_defaults(run=plot_search)


def plot_search(options: argparse.Namespace) -> int:
    """Print a table of the last epoch; draw all epochs."""
    path = RunPaths(options.logs, options.version).history
    history = read_history(path)
    png = options.png or path.with_suffix(".png")
    print("\n".join(_table(history)))
    save_png(draw_search(history, safe(f"search {options.version}")), png)
    print(f"\npicture: {safe(png)}")
    return 0


def _table(history: SearchHistory) -> Iterator[str]:
    """Yield the last epoch in a line, then for each stream a heading and a line per block."""
    last = history.epochs[-1]
    steps = f"loss {last.loss:.6g}, {last.architecture_steps} architecture steps"
    yield f"epoch {last.epoch}: {steps}, blocks changed: {last.changed}, epochs unchanged: {last.unchanged_epochs}"
    for stream in STREAMS:
        names = [short_name(name) for name in history.candidates[stream]]
        most = max(6, *map(len, names))
        heads = "  ".join(f"{name:>5}" for name in names)
        yield f"\n{STREAM_NAMES[stream]}  {'chosen':<{most}}  {heads}  entropy  margin"
        for block, row in enumerate(last.probabilities[stream]):
            figures = "  ".join(f"{p:>{max(5, len(name))}.3f}" for p, name in zip(row, names, strict=True))
            chosen = names[row.index(max(row))]
            yield f"{block:>7}  {chosen:<{most}}  {figures}  {entropy(row):>7.3f}  {margin(row):>6.3f}"
