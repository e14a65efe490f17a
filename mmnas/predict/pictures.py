"""Pictures of answers, boxes, rankings and attention, for a user's eyes.

Every function takes plain values: Pillow images, boxes (N, 4) as xyxy pixels of the image, numbers and texts.
Images are enlarged or reduced to fit, so that lines and letters look the same on all of them.
"""

from collections.abc import Collection, Sequence

import numpy as np
from PIL import Image, ImageOps

from mmnas.predict import drawing
from mmnas.predict.drawing import BLUE, BROWN, GRAY, GREEN, ORANGE, PALE, PAPER, PINK, SMALL, Canvas

STRONGEST = 5
"""Regions of an answer, and boxes of an expression, that are drawn."""
Numbers = Sequence[float] | np.ndarray
Boxes = Sequence[Numbers] | np.ndarray

_LARGEST, _SHORTEST, _PANEL, _THUMBNAIL = (720, 560), 120, 320, (200, 150)
_WIDE = 1.7  # width over height from which on a panel lies below the image


def draw_answers(
    image: Canvas,
    question: str,
    answers: Sequence[tuple[str, float]],
    boxes: Boxes = (),
    weights: Numbers = (),
) -> Image.Image:
    """Show answers with their probabilities, and the five boxes with the largest weights; the rest is dark.

    The weights (K,) of the boxes are those of an attention; they sum to one.
    """
    picture, scale = drawing.fitted(image, _LARGEST, _SHORTEST)
    strongest = np.argsort(-np.asarray(weights, float), kind="stable")[:STRONGEST].tolist()
    colors = (ORANGE, BLUE, GREEN, PINK, BROWN)
    drawn = [
        (_scaled(boxes[index], scale), f"{weights[index]:.0%}" if weights[index] >= 0.005 else "<1%", color, 3)
        for index, color in zip(strongest, colors, strict=False)
    ]
    if not drawn:
        return _beside(question, picture, answers)
    picture = drawing.dim_outside(picture, [box for box, *_ in drawn])
    drawing.draw_boxes(picture, drawn)
    note = "The boxes are what the model attended to most, with their share of its attention."
    return _beside(question, picture, answers, note)


def draw_grounding(
    image: Canvas, expression: str, boxes: Boxes, scores: Numbers, reference: Numbers = ()
) -> Image.Image:
    """Show the best box, the first one, thick and up to four others thin; `reference` (4,) is the true box."""
    picture, scale = drawing.fitted(image, _LARGEST, _SHORTEST)
    styles = [("score ", ORANGE, 5), *[("", BLUE, 2)] * (STRONGEST - 1)]
    drawn = [
        (_scaled(box, scale), f"{word}{drawing.number(score)}", color, width)
        for box, score, (word, color, width) in zip(boxes, scores, styles, strict=False)
    ]
    drawn += [(_scaled(reference, scale), "true box", GREEN, 3)] if len(reference) else []
    drawing.draw_boxes(picture, drawn)
    return drawing.page(expression, [picture], _PANEL)


def draw_captions(
    image: Canvas, title: str, captions: Sequence[tuple[str, float]], right: Collection[int] = ()
) -> Image.Image:
    """Show an image with captions, best first; `right` are the positions of those that belong to it."""
    picture, _ = drawing.fitted(image, _LARGEST, _SHORTEST)
    return _beside(title, picture, captions, "green: its own captions" if right else "", right)


def draw_images(
    caption: str, images: Sequence[tuple[Image.Image | None, str, float]], right: Collection[int] = ()
) -> Image.Image:
    """Show images with their names and scores, best first, under a caption: a contact sheet.

    An image that is not at hand is None; `right` are the positions of those that belong to the caption.
    """
    cells = []
    for place, (image, name, score) in enumerate(images):
        shown = image or Image.new("RGB", _THUMBNAIL, PALE)
        small = ImageOps.pad(shown.convert("RGB"), _THUMBNAIL, color=PALE)
        cells.append(drawing.joined([small, drawing.bar(name, score, small.width, place in right)], gap=4))
    return drawing.page(caption, _in_rows(cells, 4), _PANEL)


def draw_attention(weights: np.ndarray, title: str, queries: Sequence[str], keys: Sequence[str]) -> Image.Image:
    """Show an attention (h, Q, K): the mean of its heads, with the names of rows and columns, and each head."""
    side = max(5, min(28, 560 // max(weights.shape[1:])))
    every = -(-SMALL * 4 // 3 // side)  # names that would overlap are left out
    longest = [max(map(drawing.font_of(SMALL).getlength, names)) for names in (queries, keys)]
    left, top = (min(120, round(length) + 8) for length in longest)
    heat = drawing.heat_map(weights.mean(axis=0), side)
    large = Image.new("RGB", (left + heat.width, top + heat.height), PAPER)
    large.paste(heat, (left, top))
    for place in range(0, len(queries), every):
        name = drawing.block(queries[place], left, SMALL, lines=1)
        large.paste(name, (0, top + place * side + (side - name.height) // 2))
    for place in range(0, len(keys), every):
        name = drawing.block(keys[place], top, SMALL, lines=1).rotate(90, expand=True)
        large.paste(name, (left + place * side + (side - name.width) // 2, 0))
    rows, note = [], "Rows attend to columns."
    if len(weights) > 1:
        heads = [drawing.heat_map(head, max(1, 150 // max(head.shape))) for head in weights]
        rows = _in_rows(heads, 2 * _PANEL // heads[0].width or 1)
        note = f"Rows attend to columns: the mean of {len(heads)} heads, and each of them."
    return drawing.page(title, [drawing.block(note, _PANEL, SMALL, color=GRAY), large, *rows], _PANEL)


def _scaled(box: Numbers, scale: float) -> drawing.Box:
    x1, y1, x2, y2 = (float(side) * scale for side in box)
    return x1, y1, x2, y2


def _in_rows(pictures: Sequence[Image.Image], across: int) -> list[Image.Image]:
    starts = range(0, len(pictures), across)
    return [drawing.joined(pictures[start : start + across], across=True) for start in starts]


def _beside(
    title: str,
    picture: Image.Image,
    scored: Sequence[tuple[str, float]],
    note: str = "",
    right: Collection[int] = (),
) -> Image.Image:
    """Return a page with bars and a note beside a picture, or below a wide one."""
    wide = picture.width > _WIDE * picture.height
    width = max(picture.width, _PANEL) if wide else _PANEL
    panel = [drawing.bar(*each, width, place in right) for place, each in enumerate(scored)]
    panel += [drawing.block(note, width, SMALL, color=GRAY)] if note else []
    parts = [picture, drawing.joined(panel)] if panel else [picture]
    return drawing.page(title, [drawing.joined(parts, across=not wide)], _PANEL)
