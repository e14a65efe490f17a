"""`python -m mmnas plot-search`: how a search went, as a picture and a table, or several searches side by side."""

import argparse
from collections.abc import Iterator, Mapping

from mmnas.errors import safe
from mmnas.paths import RunPaths
from mmnas.search.drawing import STREAM_NAMES, in_words, save_png, short_name
from mmnas.search.history import STREAMS, SearchHistory, collapses, entropy, margin, read_history
from mmnas.search.picture import draw_search
from mmnas.search.progress_picture import draw_comparison

MOST_SCORED = 10  # lines


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command to the parser of `python -m mmnas`."""
    parser = commands.add_parser("plot-search", help="draw how a search went, or compare several")
    parser.add_argument("version", nargs="+", help="the search's --VERSION; several are compared in one picture")
    parser.add_argument("--logs", default="./logs", help="root of the logs (default: ./logs)")
    parser.add_argument("--png", help="file for the picture (default: <logs>/log/search_<version>.png)")
    parser.set_defaults(run=plot_search)


def plot_search(options: argparse.Namespace) -> int:
    """Print what was found at the end; draw all epochs."""
    paths = {version: RunPaths(options.logs, version).history for version in options.version}
    histories = {version: read_history(path) for version, path in paths.items()}
    name = options.version[0] if len(histories) == 1 else "comparison"
    if len(histories) == 1:
        lines, figure = _table(histories[name]), draw_search(histories[name], safe(f"search {name}"))
    else:
        lines, figure = _comparison(histories), draw_comparison(histories)
    png = options.png or RunPaths(options.logs, name).history.with_suffix(".png")
    print("\n".join(lines))
    save_png(figure, png)
    print(f"\npicture: {safe(png)}")
    return 0


def _comparison(histories: Mapping[str, SearchHistory]) -> Iterator[str]:
    """Yield a heading, and a line per search: its last epoch, and what it found."""
    width = max(len("search"), *map(len, histories))
    yield f"{'search':<{width}}  epochs      loss  entropy  million multiply-adds  found"
    for version, history in histories.items():
        last, found = history.epochs[-1], history.found
        figures = f"{last.epoch:>6}  {last.loss:>8.4g}  {last.entropy:>7.3f}  {found.multiply_adds / 1e6:>21.4g}"
        yield f"{safe(version):<{width}}  {figures}  {in_words(found.genotype)}"


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
    yield from _results(history)


def _results(history: SearchHistory) -> Iterator[str]:
    """Yield what the genotype costs, what was scored for the final choice, and a sign of trouble."""
    last = history.epochs[-1]
    if last.parameters or last.multiply_adds:
        yield f"\nblocks: {last.parameters} parameters, {last.multiply_adds} multiply-adds"
    for number, each in enumerate(history.scored[:MOST_SCORED]):
        heading = "" if number else "\nscored by the supernet, the best first: loss, multiply-adds, blocks\n"
        yield f"{heading}{each.loss:>8.4f}  {each.multiply_adds:>12}  {in_words(each.genotype)}"
    if collapses(history.epochs):
        yield "\nwarning: the genotype was nearly decided before the loss had fallen; let alphas start later"
