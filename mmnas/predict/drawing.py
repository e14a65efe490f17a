"""What pictures are put together from: blocks of text, bars, boxes with labels, maps. Drawn by Pillow alone."""

import textwrap
import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageOps, features

from mmnas.errors import JOINERS, safe
from mmnas.predict.fonts import font_of, in_fonts

# Okabe and Ito's colors, which color-blind people can tell apart.
ORANGE, BLUE, GREEN, PINK, BROWN = "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#a6761d"
PAPER, INK, GRAY, PALE, EMPTY = "#ffffff", "#1a1a1a", "#666666", "#e6e6e6", "#bbbbbb"
TITLE, TEXT, SMALL = 20, 15, 13
"""Sizes of letters, in pixels."""
GAP = 16
Size = tuple[int, int]
Canvas = Image.Image | Size
"""An image, or width and height of one that is not at hand."""
Box = tuple[float, float, float, float]
"""xyxy pixels of the picture."""
DrawnBox = tuple[Box, str, str, int]
"""A box, its label, its color and the width of its line."""


def fitted(image: Canvas, largest: Size, shortest: int) -> tuple[Image.Image, float]:
    """Return an image enlarged or reduced to fit in `largest`, and the factor.

    The sides of a long, narrow one may be up to twice as long, until the short one is `shortest`.
    """
    sides = image.size if isinstance(image, Image.Image) else image
    scale = min(most / side for most, side in zip(largest, sides, strict=True))
    scale = max(scale, min(shortest / min(sides), 2 * scale))
    width, height = (max(1, round(side * scale)) for side in sides)
    if not isinstance(image, Image.Image):
        return Image.new("RGB", (width, height), EMPTY), scale
    return image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS), scale


def dim_outside(picture: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    """Return the picture with everything outside of the boxes darker."""
    inside = Image.new("L", picture.size)
    for box in boxes:
        ImageDraw.Draw(inside).rectangle(box, 255)
    return Image.composite(picture, picture.point(lambda value: value * 0.45), inside)


def draw_boxes(picture: Image.Image, drawn: Sequence[DrawnBox]) -> None:
    """Draw boxes into a picture, the first on top; a label lies at a corner where it covers no other, if it can."""
    pen, font = ImageDraw.Draw(picture), font_of(SMALL, bold=True)
    for (x1, y1, x2, y2), _, color, width in reversed(drawn):
        pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=PAPER, width=width + 2)  # seen on any ground
        pen.rectangle((x1, y1, x2, y2), outline=color, width=width)
    taken: list[Box] = []
    for box, label, color, _ in drawn:
        taken.append(_spot(box, (round(pen.textlength(label, font)) + 8, SMALL + 6), picture.size, taken))
        pen.rectangle(taken[-1], color)
        pen.text((taken[-1][0] + 4, sum(taken[-1][1::2]) / 2), label, PAPER, font, anchor="lm")


def _spot(box: Box, size: tuple[int, int], canvas: tuple[int, int], taken: Sequence[Box]) -> Box:
    """Return where the label of a box goes: the first of its corners that is free, or else the first."""
    (x1, y1, x2, y2), (width, height) = box, size
    spots = []
    for y in (y1 - height, y2 - height, y1, y2):
        for x in (x1, x2 - width):
            x, y = (max(0, min(at, limit)) for at, limit in ((x, canvas[0] - width), (y, canvas[1] - height)))
            spots.append((x, y, x + width, y + height))
    free = (a for a in spots if not any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for b in taken))
    return next(free, spots[0])


def bar(text: str, score: float, width: int, right: bool = False) -> Image.Image:
    """Return a text, its score at the right, and below them a bar, full at a score of 1; green if it is `right`."""
    label = block(text, width - 56, TEXT)
    row = Image.new("RGB", (width, label.height + 9), PAPER)
    row.paste(label)
    pen, y = ImageDraw.Draw(row), label.height + 2
    pen.text((width, 0), number(score), INK, font_of(TEXT), anchor="ra")
    pen.rectangle((0, y, width, y + 6), PALE)
    if (full := round(width * min(max(score, 0), 1))) > 0:
        pen.rectangle((0, y, full, y + 6), GREEN if right else BLUE)
    return row


def number(score: float) -> str:
    """Return a score with two digits."""
    return "<0.01" if 0 < score < 0.005 else f"{score:.2f}"


def heat_map(weights: np.ndarray, side: int) -> Image.Image:
    """Return a map (Q, K) as squares of `side` pixels: white is 0, blue is its largest weight."""
    tones = 255 - np.round(255 * weights / max(float(weights.max()), 1e-9)).astype(np.uint8)
    small = ImageOps.colorize(Image.fromarray(tones), BLUE, PAPER)
    large = small.resize((small.width * side, small.height * side), Image.Resampling.NEAREST)
    return ImageOps.expand(large, 1, PALE)


def block(text: str, width: int, size: int, bold: bool = False, color: str = INK, lines: int = 3) -> Image.Image:
    """Return a text in lines that are at most `width` pixels long; what exceeds their number is left out."""
    text = safe(text, 600, JOINERS)
    letters = max(1, len(text))
    while True:
        rows = textwrap.wrap(text, letters, max_lines=lines, placeholder=" …" if letters > 2 else "") or [""]
        longest = max(sum(font.getlength(part) for part, font in in_fonts(row, size, bold)) for row in rows)
        if letters == 1 or longest <= width:
            break
        letters = max(1, min(letters - 1, int(letters * width / longest) + 2))
    height = round(size * 1.35)
    picture = Image.new("RGB", (width, height * len(rows)), PAPER)
    for place, row in enumerate(rows):
        x, y = 0.0, height * place + size  # the line that letters of all fonts stand on
        parts, direction = in_fonts(row, size, bold), _direction(row)
        for part, font in parts[::-1] if direction == "rtl" else parts:
            ImageDraw.Draw(picture).text((x, y), part, color, font, anchor="ls", direction=direction)
            x += font.getlength(part)
    return picture


def _direction(row: str) -> str | None:
    """Return the direction of a line, which is that of its first letter; None where Pillow cannot tell any."""
    kinds = (kind for kind in map(unicodedata.bidirectional, row) if kind in ("L", "R", "AL"))
    return ("ltr" if next(kinds, "L") == "L" else "rtl") if features.check("raqm") else None


def joined(parts: Sequence[Image.Image], across: bool = False, gap: int = GAP) -> Image.Image:
    """Return pictures side by side, or one below the other."""
    axis = 0 if across else 1
    long = sum(part.size[axis] for part in parts) + gap * (len(parts) - 1)
    wide = max(part.size[1 - axis] for part in parts)
    picture, at = Image.new("RGB", (long, wide) if across else (wide, long), PAPER), 0
    for part in parts:
        picture.paste(part, (at, 0) if across else (0, at))
        at += part.size[axis] + gap
    return picture


def page(title: str, parts: Sequence[Image.Image], least: int) -> Image.Image:
    """Return pictures below each other under a title, in a margin; `least` is the width of the title."""
    width = max(least, *(part.width for part in parts))
    return ImageOps.expand(joined([block(title, width, TITLE, bold=True), *parts]), GAP, PAPER)
