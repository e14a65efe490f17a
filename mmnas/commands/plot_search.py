"""`python -m mmnas plot-search`: how a search's probabilities and loss went, as a picture and a table."""

import argparse
from collections.abc import Iterator

from mmnas.paths import RunPaths
from mmnas.search.drawing import STREAM_NAMES, save_png, short_name
from mmnas.search.history import STREAMS, SearchHistory, entropy, margin, read_history
from mmnas.search.picture import draw_search


def add(commands) -> None:
    """Add the command to the parser of `python -m mmnas`."""
    parser = commands.add_parser("plot-search", help="draw a search's probabilities and loss over the epochs")
    parser.add_argument("version", help="the search's --VERSION")
    parser.add_argument("--logs", default="./logs", help="root of the logs (default: ./logs)")
    parser.add_argument("--png", help="file to draw to (default: <logs>/log/search_<version>.png)")
    parser.set_defaults(run=plot_search)


def plot_search(options: argparse.Namespace) -> int:
    """Print the table of the last epoch; draw all of them."""
    path = RunPaths(options.logs, options.version).history
    history = read_history(path)
    png = options.png or path.with_suffix(".png")
    print("\n".join(_table(history)))
    save_png(draw_search(history, f"search {options.version}"), png)
    print(f"\npicture: {png}")
    return 0


def _table(history: SearchHistory) -> Iterator[str]:
    """Yield the last epoch in a line, then for each stream a heading and a line per block."""
    last = history.epochs[-1]
    yield (
        f"epoch {last.epoch}: loss {last.loss:.6g}, {last.architecture_steps} architecture steps, "
        f"blocks changed: {last.changed}, epochs unchanged: {last.unchanged_epochs}"
    )
    for stream in STREAMS:
        names = [short_name(name) for name in history.candidates[stream]]
        widths = [max(len(name), 5) for name in names]
        most = max(map(len, names))
        heads = "  ".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))
        yield f"\n{STREAM_NAMES[stream]}  {'chosen':<{max(most, 6)}}  {heads}  entropy  margin"
        for block, row in enumerate(last.probabilities[stream]):
            chosen = names[row.index(max(row))]
            figures = "  ".join(f"{p:>{width}.3f}" for p, width in zip(row, widths, strict=True))
            yield f"{block:>7}  {chosen:<{max(most, 6)}}  {figures}  {entropy(row):>7.3f}  {margin(row):>6.3f}"
