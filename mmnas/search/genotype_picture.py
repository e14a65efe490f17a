"""The picture of an architecture: encoder and decoder side by side, each a chain of blocks from top to bottom.

Lengths are inches; the axes cover the whole figure and count upwards from its lower left corner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmnas.genotype import OPERATIONS, Genotype, Row
from mmnas.search import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mmnas.models.cost import Cost

PITCH, BOX, PLUS = 0.44, 0.28, 0.2  # from one block to the next; a box's height; between the boxes of a block
TOP, SIDE, GAP = 0.95, 1.5, 1.2  # margins; between the columns
LEGEND_LINE, LEGEND_COLUMNS = 0.2, 3
COLUMN, CELL, CHARACTER = 1.5, 0.26, 0.08  # least width of a column; a box's margins; a label's mean character


def draw_architecture(genotype: Genotype, costs: Sequence[Sequence[Cost]], title: str, subtitle: str) -> Figure:
    """Draw a genotype; `costs` are those of its encoder and decoder blocks, whose parameters are shown."""
    from matplotlib.figure import Figure

    streams = genotype.encoder, genotype.decoder
    families = {OPERATIONS[name].family for rows in streams for row in rows for name in row}
    columns = [max(COLUMN, *map(_needed_width, rows)) for rows in streams]
    width = 2 * SIDE + GAP + sum(columns)
    height = TOP + (max(map(len, streams)) + 1.8) * PITCH + LEGEND_LINE * -(-len(families) // LEGEND_COLUMNS)
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    text: dict[str, Any] = {"ha": "center", "parse_math": False}
    axes.text(width / 2, height - 0.3, title, fontsize=12, weight="bold", color=drawing.INK, **text)
    axes.text(width / 2, height - 0.53, subtitle, fontsize=8.5, color=drawing.GRAY, **text)
    left, right = SIDE, width - SIDE - columns[1]
    _draw_column(axes, left, columns[0], (("tokens",), *genotype.encoder, ("encoder output",)))
    _draw_column(axes, right, columns[1], (("regions",), *genotype.decoder, ("decoder output",)))
    _annotate(axes, left - 0.2, costs[0], "{1:>10} {0:>6}", ha="right")
    _annotate(axes, width - SIDE + 0.2, costs[1], "{0:<6} {1:>10}", ha="left")
    _join(axes, genotype, left + columns[0], right)
    boxes = {label: box for box in axes.containers if not (label := str(box.get_label())).startswith("_")}
    legend: dict[str, Any] = {"loc": "lower center", "ncols": LEGEND_COLUMNS, "frameon": False, "fontsize": 8.5}
    axes.legend(handles=list(boxes.values()), **legend)
    return figure


def _needed_width(row: Row) -> float:
    """Return the width of a block whose boxes are all as wide as the widest."""
    return len(row) * (CELL + CHARACTER * max(len(drawing.short_name(name)) for name in row) + PLUS) - PLUS


def _height_of(axes: Axes, block: int) -> float:
    """Return the height of a block's middle; -1 is the input, one past the last the output."""
    return axes.get_ylim()[1] - TOP - (block + 1) * PITCH


def _draw_column(axes: Axes, left: float, width: float, rows: Sequence[Row]) -> None:
    """Draw a stream's chain: the name of its input, its blocks, the name of its output."""
    for block, row in enumerate(rows, start=-1):
        y, middle, step = _height_of(axes, block), left + width / 2, (width + PLUS) / len(row)
        for index, name in enumerate(row):
            x = left + index * step
            looks: dict[str, Any] = {"fc": "none", "ec": drawing.GRAY}
            if name in OPERATIONS:
                color, title = drawing.color_of(name), drawing.family_title(OPERATIONS[name].family)
                looks = {"fc": (color, 0.22), "ec": color, "label": title}
            box = axes.barh(y, step - PLUS, BOX, x, lw=1.2, **looks)
            axes.bar_label(box, [drawing.short_name(name)], label_type="center", fontsize=9, color=drawing.INK)
            if index:
                axes.text(x - PLUS / 2, y, "+", ha="center", va="center", fontsize=9, color=drawing.INK)
        if block >= 0:
            _draw_arrow(axes, (middle, y + PITCH - BOX / 2), (middle, y + BOX / 2), drawing.INK)


def _draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    style = {"arrowstyle": "-|>", "color": color, "lw": 1.1, "mutation_scale": 8, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)


def _annotate(axes: Axes, x: float, costs: Sequence[Cost], form: str, ha: Any) -> None:
    """Write each block's number and parameters beside it."""
    lines = [("block", "parameters")] + [(str(i), f"{each.parameters / 1e6:.2f} M") for i, each in enumerate(costs)]
    for block, line in enumerate(lines, start=-1):
        y, text = _height_of(axes, block), form.format(*line)
        axes.text(x, y, text, ha=ha, va="center", fontsize=8, color=drawing.GRAY, family="monospace")


def _join(axes: Axes, genotype: Genotype, left: float, right: float) -> None:
    """Lead the encoder's output, from `left`, to every decoder block that reads it, at `right`."""
    reading = [any(OPERATIONS[name].reads == "memory" for name in row) for row in genotype.decoder]
    start, middle = _height_of(axes, len(genotype.encoder)), (left + right) / 2
    ends = [_height_of(axes, block) for block, reads in enumerate(reading) if reads]
    if ends:
        axes.hlines(start, left, middle, color=drawing.MEMORY, lw=1.1)
        axes.vlines(middle, min(start, *ends), max(start, *ends), color=drawing.MEMORY, lw=1.1)
    for y in ends:
        _draw_arrow(axes, (middle, y), (right, y), drawing.MEMORY)
