"""The pieces of a report's page: HTML with everything escaped, curves, and pictures with boxes."""

import base64
import html
import importlib.resources
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from mmnas.detector.images import read_image
from mmnas.errors import JOINERS, DataError, safe
from mmnas.search.drawing import GRAY, write_figure

COLORS = ("#2b6cb0", "#c2560a", "#7b4fb0", "#0e8c97", "#b0307a", "#7a6a10")
"""Of the versions, as in the page's style for light paper."""
LONGEST_SHOWN = 10**6
MOST_POINTS = 1000  # of a curve
THUMBNAIL = (480, 360)

Boxes = Iterable[tuple[str, int, Sequence[float]]]


class Html(str):
    """Text that is HTML already; all other text is escaped."""


_FILE = importlib.resources.files("mmnas.predict") / "report.html"
_PARTS = re.split(r"<!-- (\w+) -->\n", _FILE.read_text(encoding="utf-8"))
_TEMPLATES = {name: Template(text) for name, text in zip(_PARTS[1::2], _PARTS[2::2], strict=True)}


def fill(part: str, **values: object) -> Html:
    """Return a part of the page with its values; those of a list follow each other."""
    return Html(_TEMPLATES[part].substitute({name: _escaped(value) for name, value in values.items()}))


def _escaped(value: object) -> str:
    if isinstance(value, list):
        return "".join(map(_escaped, value))
    return value if isinstance(value, Html) else html.escape(safe(value, LONGEST_SHOWN, JOINERS))


def curves(title: str, lines: Mapping[int, Sequence[tuple[int, float]]]) -> Html:
    """Draw a line per version over the epochs; versions are numbers, which give the colors."""
    figure = Figure(figsize=(4.2, 2.6), layout="constrained")
    axes = figure.subplots()
    for number, points in lines.items():
        drawn = points[:: -(len(points) // MOST_POINTS + 1)]  # the last one always
        axes.plot(*zip(*drawn, strict=True), color=COLORS[number], lw=1.6, marker="o", ms=3)
    axes.set_title(title, loc="left", fontsize=10, color=GRAY, parse_math=False)
    axes.set_xlabel("epoch", fontsize=9, color=GRAY)
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    axes.tick_params(labelsize=8, colors=GRAY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRAY)
    return fill("plot", title=title, source=vector(figure))


def vector(figure: Figure) -> str:
    """Return a figure as the address of an SVG picture that holds all of it."""
    file = io.BytesIO()
    write_figure(figure, file, format="svg", transparent=True, metadata={"Date": None})
    return _address("svg+xml", file)


def _address(kind: str, file: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def picture(path: Path | None, number: int, boxes: Boxes) -> Html:
    """Return a small copy of an image with boxes, each with its kind and the color's number; nothing without it."""
    try:
        image = None if path is None else Image.fromarray(read_image(path)[..., ::-1])
    except DataError:
        image = None
    if image is None:
        return Html()
    width, height = image.size
    drawn = [_box(*box) for box in boxes]
    image.thumbnail(THUMBNAIL)
    image.save(file := io.BytesIO(), "JPEG", quality=80)
    address = _address("jpeg", file)
    return fill("picture", source=address, number=number, boxes=drawn, width=width, height=height)


def _box(kind: str, color: int, box: Sequence[float]) -> Html:
    x, y, right, bottom = np.round(np.asarray(box, float), 1).tolist()
    return fill("box", kind=kind, color=color, x=x, y=y, width=right - x, height=bottom - y)
