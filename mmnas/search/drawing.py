"""How operations look in tables and pictures: their short names, their colours; and figures without a display."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmnas.files import PathLike, replacing
from mmnas.genotype import OPERATIONS

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import LayoutEngine

PAPER_NAMES = {"self_att_64": "SA", "rel_self_att_64": "RSA", "guided_att_64": "GA", "feed_forward": "FFN"}
STREAM_NAMES = {"enc": "encoder", "dec": "decoder"}
GREY, INK = "#8a94a3", "#1f2933"
DOTS_PER_INCH = 150
MOST_DOTS = 2**16 - 1  # along one side; the canvas takes no more


@dataclass(frozen=True)
class Look:
    """How a family of operations is drawn."""

    colour: str
    title: str


# family -> look
LOOKS = {
    "self_att": Look("#2b6cb0", "self-attention"),
    "rel_self_att": Look("#7b4fb0", "relational self-attention"),
    "guided_att": Look("#dd6b10", "guided attention"),
    "feed_forward": Look("#2f8f4e", "feed-forward"),
    "uniimg_att": Look("#c02f80", "attention to both streams"),
    "sep_conv": Look("#0e94a0", "separable convolution"),
    "std_conv": Look("#8a6030", "convolution"),
    "feed_forward_deep": Look("#83a010", "deep feed-forward"),
    "gated_linear": Look("#c53030", "gated linear unit"),
    "gelu": Look("#c9a000", "GELU"),
    "skip_connect": Look("#5f6f85", "skip connection"),
    "none": Look("#a9b4c2", "none"),
}
LINE_STYLES = ("-", "--", ":", "-.")


def short_name(operation: str) -> str:
    """Return the paper's name of an operation that has one, else the name itself."""
    return PAPER_NAMES.get(operation, operation)


def short_row(row: Iterable[str]) -> str:
    """Return the short names of a block's operations, whose outputs add up."""
    return "+".join(map(short_name, row))


def colour_of(operation: str) -> str:
    """Return the colour of an operation's family."""
    return LOOKS[OPERATIONS[operation].family].colour


def line_styles(operations: Sequence[str]) -> list[str]:
    """Return a line style for each operation, so that those of one family, of one colour, differ."""
    families = [OPERATIONS[name].family for name in operations]
    return [LINE_STYLES[families[:index].count(family) % len(LINE_STYLES)] for index, family in enumerate(families)]


def new_figure(width: float, height: float, layout: LayoutEngine | None = None) -> Figure:
    """Return an empty figure of that many inches, bound to a canvas that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Figure, path: PathLike) -> None:
    """Write `figure` to `path`, atomically, as finely as its size allows."""
    dots = min(DOTS_PER_INCH, int(MOST_DOTS / max(figure.get_size_inches())))
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dots, facecolor="white")
