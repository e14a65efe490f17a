"""Scenes: a few simple things on a canvas, each with a size, a color and a shape.

Every file of the demo world is derived from its scenes, and a scene is in the same split for all three tasks.
Boxes are xyxy pixels, y downwards, with x2 <= width - 1 and y2 <= height - 1.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mmnas.boxes import pairwise_iou

SHAPES = ("ball", "cube", "cone", "ring", "star")
COLORS = ("red", "green", "blue", "yellow", "white")
SIZES = ("small", "medium", "large")
SPLITS = ("train2014", "val2014", "test2015")
INFO = {"description": "A synthetic demo world.", "version": "1.0", "year": 2014}
LICENSE = {"name": "Apache License 2.0", "url": "http://www.apache.org/licenses/LICENSE-2.0"}

_THING_COUNTS = {3: 0.4, 4: 0.3, 5: 0.2, 6: 0.1}  # things in a scene, and the probability of each number
_REPEAT_P = 0.25  # probability of a color or shape that another thing has, so that there is something to count
_SIDE = {"small": (48, 66), "medium": (88, 116), "large": (150, 184)}  # pixels, before the aspect ratio
_MAX_OVERLAP = 0.05  # IoU
_MAX_IMAGE_ID = 600_000  # as in COCO

T = TypeVar("T")


@dataclass(frozen=True)
class Thing:
    """One thing of a scene; `center` is in fractions of the canvas, x and y."""

    size: str
    color: str
    shape: str
    box: tuple[float, float, float, float]
    center: tuple[float, float]

    @property
    def area(self) -> float:
        """Width times height, in square pixels."""
        x1, y1, x2, y2 = self.box
        return (x2 - x1) * (y2 - y1)

    @property
    def look(self) -> tuple[str, str, str]:
        """Size, color and shape; no two things of a scene share all three."""
        return self.size, self.color, self.shape


@dataclass(frozen=True)
class Scene:
    """One image of the world; width and height in pixels."""

    image_id: int
    split: str
    width: int
    height: int
    things: tuple[Thing, ...]

    def coco_name(self, split: str = "") -> str:
        """The image's file name in COCO; grounding data sets put every image into train2014."""
        return f"COCO_{split or self.split}_{self.image_id:012d}.jpg"

    @property
    def flickr_name(self) -> str:
        """The image's file name in Flickr30K."""
        return f"{1_000_000_000 + self.image_id}.jpg"


def child(seed: int, purpose: str, number: int = 0) -> np.random.Generator:
    """Return a generator for one purpose only, so that what one file draws never changes another."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), number])


def pick(items: Sequence[T], rng: np.random.Generator) -> T:
    """Return one of `items` (at least one), each equally likely."""
    return items[int(rng.integers(len(items)))]


def draw_scenes(images: int, seed: int) -> list[Scene]:
    """Return `images` scenes: three fifths train2014, then a fifth each val2014 and test2015.

    val2014 has at least six scenes, because the captions' dev and test splits are made from it.
    """
    ids = child(seed, "image ids").choice(np.arange(1, _MAX_IMAGE_ID), size=images, replace=False)
    counts = images * 3 // 5, max(6, images // 5)
    splits = np.repeat(SPLITS, [*counts, images - sum(counts)])
    return [
        draw_scene(int(image_id), str(split), child(seed, "scene", int(image_id)))
        for image_id, split in zip(ids, splits, strict=True)
    ]


def draw_scene(image_id: int, split: str, rng: np.random.Generator) -> Scene:
    """Draw the canvas and three to six things that look different and hardly overlap."""
    width, height = int(rng.integers(600, 681)), int(rng.integers(440, 521))
    things: list[Thing] = []
    wanted = int(rng.choice(list(_THING_COUNTS), p=list(_THING_COUNTS.values())))
    while len(things) < wanted:
        thing = _draw_thing(things, width, height, rng)
        if all(_distinct(thing, other) for other in things):
            things.append(thing)
    return Scene(image_id, split, width, height, tuple(things))


def _draw_thing(things: list[Thing], width: int, height: int, rng: np.random.Generator) -> Thing:
    size = str(rng.choice(SIZES, p=(0.4, 0.35, 0.25)))
    color = _repeat_or_draw([thing.color for thing in things], COLORS, rng)
    shape = _repeat_or_draw([thing.shape for thing in things], SHAPES, rng)
    side = rng.uniform(*_SIDE[size]) * np.array([1, rng.uniform(0.9, 1.1)])
    corner = rng.uniform(0, np.array([width - 1, height - 1]) - side)
    x1, y1, x2, y2 = (round(float(value), 2) for value in (*corner, *(corner + side)))
    return Thing(size, color, shape, (x1, y1, x2, y2), ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height))


def _repeat_or_draw(seen: list[str], values: tuple[str, ...], rng: np.random.Generator) -> str:
    return str(rng.choice(seen if seen and rng.random() < _REPEAT_P else values))


def _distinct(thing: Thing, other: Thing) -> bool:
    return thing.look != other.look and pairwise_iou([thing.box], [other.box])[0, 0] <= _MAX_OVERLAP
