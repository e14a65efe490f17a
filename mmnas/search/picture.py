"""The picture of a search: the probabilities of every block's candidates over the epochs, its course beneath."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmnas.search.drawing import INK, STREAM_NAMES, color_of, line_styles, short_name
from mmnas.search.history import STREAMS, SearchHistory
from mmnas.search.progress_picture import HEADING_STYLE, draw_progress, finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

COLUMNS = 6
PANEL_WIDTH, PANEL_HEIGHT, HEADING, LEGEND_LINE = 1.8, 1.3, 0.5, 0.2  # inches
GENOTYPES_HEIGHT, PROGRESS_HEIGHT = 2.0, 2.2


def draw_search(history: SearchHistory, title: str) -> Figure:
    """Draw a search: a panel per block and a line per candidate, the chosen one bold and marked."""
    from matplotlib.figure import Figure

    heights = [*(_height(history, stream) for stream in STREAMS), GENOTYPES_HEIGHT, PROGRESS_HEIGHT]
    figure = Figure(figsize=(COLUMNS * PANEL_WIDTH, sum(heights) + HEADING))
    figure.set_layout_engine("constrained", h_pad=0.08, w_pad=0.08)
    figure.suptitle(title, fontsize=13, weight="bold", color=INK, parse_math=False)
    *parts, genotypes, progress = figure.subfigures(4, 1, height_ratios=heights)
    for part, stream in zip(parts, STREAMS, strict=True):
        _draw_stream(part, history, stream)
    _draw_genotypes(genotypes.subplots(), history)
    draw_progress(progress, {title: history})
    return figure


def _height(history: SearchHistory, stream: str) -> float:
    candidates, blocks = len(history.candidates[stream]), len(history.epochs[-1].probabilities[stream])
    return HEADING + LEGEND_LINE * -(-candidates // COLUMNS) + PANEL_HEIGHT * -(-blocks // COLUMNS)


def _draw_stream(part: SubFigure, history: SearchHistory, stream: str) -> None:
    from matplotlib.lines import Line2D

    names, blocks = history.candidates[stream], len(history.epochs[-1].probabilities[stream])
    grid = part.subplots(-(-blocks // COLUMNS), COLUMNS, sharex=True, sharey=True, squeeze=False).flat
    for index, axes in enumerate(grid):
        axes.set_visible(index < blocks)
        if index < blocks:
            _draw_block(axes, history, stream, index)
            axes.tick_params(labelbottom=index + COLUMNS >= blocks)
    looks = zip(names, line_styles(names), strict=True)
    lines = [Line2D([], [], color=color_of(name), ls=style, lw=2, label=short_name(name)) for name, style in looks]
    part.legend(handles=lines, loc="outside upper center", ncols=COLUMNS, frameon=False, fontsize=9)
    part.suptitle(STREAM_NAMES[stream], x=0.01, ha="left", fontsize=11, weight="bold", color=INK)


def _draw_block(axes: Axes, history: SearchHistory, stream: str, block: int) -> None:
    names = history.candidates[stream]
    rows = [entry.probabilities[stream][block] for entry in history.epochs]
    chosen = rows[-1].index(max(rows[-1]))
    for index, (name, style) in enumerate(zip(names, line_styles(names), strict=True)):
        width, dot, level = (2.0, 6, 4) if index == chosen else (1.1, 2.5, 3)
        drawn: dict[str, Any] = {"color": color_of(name), "zorder": level, "lw": width, "marker": "o", "ms": dot}
        epochs, values = [entry.epoch for entry in history.epochs], [row[index] for row in rows]
        axes.plot(epochs, values, style, clip_on=False, markevery=[-1], **drawn)
    axes.set_title(f"{block}  {short_name(names[chosen])}", fontsize=9, color=color_of(names[chosen]), pad=3)
    axes.set(ylim=(0, 1), yticks=(0, 0.5, 1))
    finish(axes, [history], ticks=4)


def _draw_genotypes(axes: Axes, history: SearchHistory) -> None:
    """Draw the most probable candidate of every block, one row each, over the epochs."""
    from matplotlib.colors import to_rgb

    rows = []
    for stream in STREAMS:
        colors = [to_rgb(color_of(name)) for name in history.candidates[stream]]
        for block in range(len(history.epochs[-1].probabilities[stream])):
            over_epochs = (entry.probabilities[stream][block] for entry in history.epochs)
            rows.append([colors[row.index(max(row))] for row in over_epochs])
    last = history.epochs[-1].epoch + 0.5
    axes.imshow(
        rows, aspect="auto", interpolation="nearest", extent=(history.epochs[0].epoch - 0.5, last, len(rows), 0)
    )
    axes.axhline(len(history.epochs[-1].probabilities["enc"]), color="white", lw=2)
    axes.set_title("genotype over the epochs: encoder above, decoder below", **HEADING_STYLE)
    axes.set_yticks([])
    finish(axes, [], ticks=10)
