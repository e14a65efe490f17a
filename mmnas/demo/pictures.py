"""The pictures of the world: every scene drawn as a JPEG file, under its names in COCO and in Flickr30K.

A thing fills its box and looks solid: its parts are drawn from back to front, each in a light of its own.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFilter, ImageOps

from mmnas.demo.regions import link_or_copy
from mmnas.demo.scenes import Scene, Thing

_PAINT = {"red": "#d8342b", "green": "#2f9e4f", "blue": "#2f62d9", "yellow": "#f6c526", "white": "#f4f2ec"}
_WALLS = (("#a9a39a", "#6f6a63"), ("#98a1ac", "#5d6671"), ("#a298a6", "#685f6d"))  # middle and edges
_FINER = 4  # things are drawn this many times as large, then reduced
_SHADOW = 5  # pixels: the blur of its edge, and half of what it lies to the right and below


def _circle(center: float, radius: float) -> list[tuple[float, float]]:
    return [(center - radius, center - radius), (center + radius, center + radius)]


_STEPS = [step / 32 for step in range(33)]
_FOOT = [(x, 0.88 + 0.12 * np.sqrt(1 - (2 * x - 1) ** 2)) for x in _STEPS]  # of the cone, seen from above
_TIPS = [(1 - i % 2 * 0.55, np.radians(36 * i - 90)) for i in range(11)]  # of the star: radius and angle
_RIM = [(0.5 + far * np.cos(turn) / 1.902, (1 + far * np.sin(turn)) / 1.809) for far, turn in _TIPS]
# The parts of each shape: light (0: a hole), and outline in fractions of the box; two points stand for an ellipse.
_PARTS: dict[str, list[tuple[float, list[tuple[float, float]]]]] = {
    "ball": [(0.6 + 0.65 * step, _circle(0.5 - 0.14 * step, 0.5 - 0.475 * step)) for step in _STEPS],
    "ring": [(0.6 + 0.55 * np.sin(np.pi * step), _circle(0.5, 0.5 - 0.3 * step)) for step in _STEPS],
    "cone": [(0.55 + 0.65 * np.exp(-((3 * a[0] - 1) ** 2)), [(0.5, 0), a, b]) for a, b in pairwise(_FOOT)],
    "star": [(0.8 + 0.3 * (i % 2), [(0.5, 0.553), *ends]) for i, ends in enumerate(pairwise(_RIM))],
    "cube": [
        (1.15, [(0.5, 0), (1, 0.25), (0.5, 0.5), (0, 0.25)]),
        (0.9, [(0, 0.25), (0.5, 0.5), (0.5, 1), (0, 0.75)]),
        (0.65, [(1, 0.25), (0.5, 0.5), (0.5, 1), (1, 0.75)]),
    ],
}
_PARTS["ring"].append((0, _circle(0.5, 0.2)))


def write_pictures(out: Path, scenes: list[Scene]) -> None:
    """Write `images/<split>/<COCO's name>`, and the same file as `images/flickr30k-images/<Flickr30K's name>`."""
    for scene in scenes:
        path = out / "images" / scene.split / scene.coco_name()
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(scene).save(path, quality=90)
        link_or_copy(path, [out / "images" / "flickr30k-images" / scene.flickr_name])


def draw(scene: Scene) -> Image.Image:
    """Return the picture of a scene: its things on a plain wall that gets darker towards the edges."""
    fading = Image.radial_gradient("L").resize((scene.width, scene.height))
    picture = ImageOps.colorize(fading, *_WALLS[scene.image_id % len(_WALLS)])
    for thing in scene.things:
        _draw_thing(picture, thing)
    return picture


def _draw_thing(picture: Image.Image, thing: Thing) -> None:
    """Draw a thing into its box, and its shadow around it."""
    x1, y1, x2, y2 = map(round, thing.box)
    tile = Image.new("RGBA", ((x2 - x1 + 1) * _FINER, (y2 - y1 + 1) * _FINER))  # a box includes its last pixels
    pen, paint = ImageDraw.Draw(tile), ImageColor.getrgb(_PAINT[thing.color])
    for light, outline in _PARTS[thing.shape]:
        tone = (*(min(255, round(light * value)) for value in paint), 255 if light else 0)
        (pen.ellipse if len(outline) == 2 else pen.polygon)(np.multiply(outline, tile.size).ravel().tolist(), tone)
    solid = tile.reduce(_FINER)
    shadow = ImageOps.expand(solid.getchannel("A").point(lambda alpha: alpha * 2 // 5), 3 * _SHADOW)
    shadow = shadow.filter(ImageFilter.GaussianBlur(_SHADOW))
    picture.paste("black", (x1 - 2 * _SHADOW, y1 - 2 * _SHADOW), shadow)
    picture.paste(solid, (x1, y1), solid)
