"""How operations look in tables and pictures: short names, colors, line styles; and how figures are saved."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mmnas.files import PathLike, replacing
from mmnas.genotype import OPERATIONS, Genotype

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER_NAMES = {"self_att_64": "SA", "rel_self_att_64": "RSA", "guided_att_64": "GA", "feed_forward": "FFN"}
STREAM_NAMES = {"enc": "encoder", "dec": "decoder"}
GRAY, INK, MEMORY = "#8a94a3", "#1f2933", "#dd6b10"
DOTS_PER_INCH = 150
MOST_DOTS = 2**16 - 1  # along one side; the canvas takes no more
# Families take these colors in the order of `OPERATIONS`, again from the start where there are more.
PALETTE = """
    #a9b4c2 #5f6f85 #c9a000 #2b6cb0 #7b4fb0 #dd6b10 #c02f80 #0e94a0 #8a6030 #2f8f4e #83a010 #c53030 #3f3f9f #b07050
""".split()
# Words of family names that are abbreviations.
WORDS = {"att": "attention", "rel": "relational", "sep": "separable", "std": "standard", "conv": "convolution"}
LINE_STYLES = ("-", "--", ":", "-.")


def short_name(operation: str) -> str:
    """Return the paper's name of an operation that has one, else the name itself."""
    return PAPER_NAMES.get(operation, operation)


def short_row(row: Iterable[str]) -> str:
    """Return the short names of a block's operations, whose outputs add up."""
    return "+".join(map(short_name, row))


def in_words(genotype: Genotype) -> str:
    """Return the operations of a genotype in one line."""
    return " | ".join(" ".join(map(short_row, rows)) for rows in (genotype.encoder, genotype.decoder))


def family_title(family: str) -> str:
    """Return a family's name for a legend."""
    return " ".join(WORDS.get(word, word) for word in family.split("_"))


def color_of(operation: str) -> str:
    """Return the color of an operation's family."""
    families = list(dict.fromkeys(spec.family for spec in OPERATIONS.values()))
    return PALETTE[families.index(OPERATIONS[operation].family) % len(PALETTE)]


def line_styles(operations: Sequence[str]) -> list[str]:
    """Return a line style for each operation, so that those of one family, of one color, differ."""
    kinds = [OPERATIONS[name].family for name in operations]
    return [LINE_STYLES[kinds[:index].count(kind) % len(LINE_STYLES)] for index, kind in enumerate(kinds)]


def save_png(figure: Figure, path: PathLike) -> None:
    """Write `figure` to `path`, atomically, as finely as its size allows."""
    dots = min(DOTS_PER_INCH, int(MOST_DOTS / max(figure.get_size_inches())))
    with replacing(path) as temporary:
        write_figure(figure, temporary, format="png", dpi=dots, facecolor="white")


def write_figure(figure: Figure, file: Any, **options: Any) -> None:
    """Write `figure`; letters that its font lacks are drawn as boxes, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(file, **options)
