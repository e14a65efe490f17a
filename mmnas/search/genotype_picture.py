"""The picture of an architecture: encoder and decoder side by side, each a chain of blocks from top to bottom.

Lengths are inches; the axes cover the whole figure and count upwards from its lower left corner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmnas.genotype import OPERATIONS, Genotype, Row
from mmnas.search.drawing import GREY, INK, LOOKS, colour_of, new_figure, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mmnas.models.cost import Cost

PITCH, BOX = 0.44, 0.28  # from one block to the next; a box's height
TOP, BOTTOM, SIDE, GAP = 0.95, 0.25, 1.4, 1.2  # margins; between the columns
FRAME = 0.04  # from a row of several operations to the frame around it
LEGEND_LINE, LEGEND_COLUMNS, ENTRY = 0.26, 3, 2.0
CELL, LEAST_COLUMN = 0.62, 1.9  # least widths of an operation's box and of a column
CHARACTER = 0.078  # mean width of one at the size of the labels


def draw_architecture(
    genotype: Genotype, costs: tuple[Sequence[Cost], Sequence[Cost]], *, title: str, subtitle: str
) -> Figure:
    """Draw a genotype; `costs` are those of its encoder and decoder blocks, whose parameters stand beside them."""
    families = _families(genotype)
    legend = LEGEND_LINE * _legend_lines(families)
    longest = max(len(genotype.encoder), len(genotype.decoder))
    widths = [max(LEAST_COLUMN, *map(_row_width, rows)) for rows in (genotype.encoder, genotype.decoder)]
    height = TOP + (longest + 1.5) * PITCH + legend + BOTTOM
    width = 2 * SIDE + GAP + sum(widths)
    figure = new_figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    _heading(axes, width / 2, height, title, subtitle)
    first = height - TOP
    encoder = Column(axes, SIDE + widths[0] / 2, first, ("tokens", "encoder output"), genotype.encoder)
    decoder = Column(axes, width - SIDE - widths[1] / 2, first, ("regions", "decoder output"), genotype.decoder)
    encoder.annotate(costs[0], SIDE - 0.12, "right")
    decoder.annotate(costs[1], width - SIDE + 0.12, "left")
    _join(axes, encoder, decoder, SIDE + widths[0] + GAP / 2)
    _legend(axes, families, width, BOTTOM + legend)
    return figure


class Column:
    """One stream's chain, drawn when made: its input, its blocks, its output."""

    def __init__(self, axes: Axes, centre: float, first: float, ends: tuple[str, str], rows: Sequence[Row]) -> None:
        self.axes, self.centre, self.first, self.output, self.rows = axes, centre, first, ends[1], rows
        for block, end in ((-1, ends[0]), (len(rows), ends[1])):
            _box(axes, centre, self.height_of(block), _text_width(end), "white", GREY, end)
        for block, row in enumerate(rows):
            _row(axes, centre, self.height_of(block), row)
        for block, (above, below) in enumerate(zip([(), *rows], [*rows, ()], strict=True)):
            start = self.height_of(block - 1) - _row_height(above) / 2
            _arrow(axes, (centre, start), (centre, self.height_of(block) + _row_height(below) / 2), INK)

    def height_of(self, block: int) -> float:
        """Return the height of a block's middle; -1 is the input, one past the last the output."""
        return self.first - (block + 1) * PITCH

    def annotate(self, costs: Sequence[Cost], x: float, side: str) -> None:
        """Write each block's number and parameters beside it, to the left ("right"-aligned) or to the right."""
        lines = [("block", "parameters")]
        lines += [(str(block), f"{cost.parameters / 1e6:.2f} M") for block, cost in enumerate(costs)]
        for block, (number, parameters) in enumerate(lines, start=-1):
            text = f"{parameters:>10} {number:>6}" if side == "right" else f"{number:<6} {parameters:>10}"
            y = self.height_of(block)
            self.axes.text(x, y, text, ha=side, va="center", fontsize=8, color=GREY, family="monospace")


def _families(genotype: Genotype) -> list[str]:
    """Return the families that occur, in the order of their looks."""
    rows = (*genotype.encoder, *genotype.decoder)
    found = {OPERATIONS[name].family for row in rows for name in row}
    return [family for family in LOOKS if family in found]


def _text_width(text: str) -> float:
    return max(CELL, 0.26 + CHARACTER * len(text))


def _cells(row: Row) -> list[float]:
    """Return the widths of a row's boxes; a lone operation gets a wide one."""
    widths = [_text_width(short_name(name)) for name in row]
    return [max(widths[0], LEAST_COLUMN - 0.4)] if len(row) == 1 else widths


def _row_width(row: Row) -> float:
    return sum(_cells(row)) + 0.2 * (len(row) - 1) + (2 * FRAME if len(row) > 1 else 0)


def _row_height(row: Row) -> float:
    return BOX + (2 * FRAME if len(row) > 1 else 0)


def _row(axes: Axes, centre: float, y: float, row: Row) -> None:
    """Draw the operations of one block side by side, in a frame where there are several."""
    if len(row) > 1:
        _box(axes, centre, y, _row_width(row), "#f3f5f8", GREY, "", height=_row_height(row))
    x = centre - (sum(_cells(row)) + 0.2 * (len(row) - 1)) / 2
    for index, (name, width) in enumerate(zip(row, _cells(row), strict=True)):
        if index:
            axes.text(x - 0.1, y, "+", ha="center", va="center", fontsize=9, color=INK)
        colour = colour_of(name)
        _box(axes, x + width / 2, y, width, _tint(colour), colour, short_name(name))
        x += width + 0.2


def _box(axes, x, y, width, fill, edge, label, height=BOX) -> None:
    from matplotlib.patches import FancyBboxPatch

    corner = (x - width / 2, y - height / 2)
    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, facecolor=fill, edgecolor=edge, lw=1.2))
    axes.text(x, y, label, ha="center", va="center_baseline", fontsize=9, color=INK)


def _tint(colour: str) -> tuple[float, ...]:
    """Return a colour pale enough to write on."""
    from matplotlib.colors import to_rgb

    return tuple(0.22 * part + 0.78 for part in to_rgb(colour))


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "lw": 1.1, "mutation_scale": 8, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)


def _join(axes: Axes, encoder: Column, decoder: Column, x: float) -> None:
    """Lead the encoder's output along x to every decoder block that reads it."""
    readers = [
        block for block, row in enumerate(decoder.rows) if any(OPERATIONS[name].reads == "memory" for name in row)
    ]
    if not readers:
        return
    colour = LOOKS["guided_att"].colour
    out = encoder.height_of(len(encoder.rows))
    heights = [decoder.height_of(block) for block in readers]
    axes.plot([encoder.centre + _text_width(encoder.output) / 2, x], [out, out], color=colour, lw=1.1)
    axes.plot([x, x], [min(out, *heights), max(out, *heights)], color=colour, lw=1.1)
    for block, y in zip(readers, heights, strict=True):
        _arrow(axes, (x, y), (decoder.centre - _row_width(decoder.rows[block]) / 2, y), colour)


def _heading(axes: Axes, x: float, height: float, title: str, subtitle: str) -> None:
    axes.text(x, height - 0.3, title, ha="center", fontsize=12, weight="bold", color=INK, parse_math=False)
    axes.text(x, height - 0.53, subtitle, ha="center", fontsize=8.5, color=GREY, parse_math=False)


def _legend_lines(families: Sequence[str]) -> int:
    return -(-len(families) // LEGEND_COLUMNS)


def _legend(axes: Axes, families: Sequence[str], width: float, top: float) -> None:
    columns = -(-len(families) // _legend_lines(families))
    for index, family in enumerate(families):
        line, column = divmod(index, columns)
        x, y = width / 2 + (column - columns / 2) * ENTRY + 0.25, top - LEGEND_LINE * (line + 0.5)
        look = LOOKS[family]
        _box(axes, x, y, 0.22, _tint(look.colour), look.colour, "", height=0.14)
        axes.text(x + 0.2, y, look.title, va="center_baseline", fontsize=8.5, color=INK)
