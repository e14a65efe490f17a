"""Scenes: a few things of simple shape, colour and size on a canvas, and which split each scene is of.

Every file of the demo world is derived from its scenes, so a scene's split holds for all three tasks.
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

_HOW_MANY = {3: 0.4, 4: 0.3, 5: 0.2, 6: 0.1}  # things in a scene
_REPEATED = 0.25  # share of colours and shapes taken from another thing, so that there is something to count
_SIDE = {"small": (48, 66), "medium": (88, 116), "large": (150, 184)}  # pixels, before the aspect
_MOST_OVERLAP = 0.05  # IoU
_LARGEST_ID = 600_000  # image ids lie where COCO's do

T = TypeVar("T")


@dataclass(frozen=True)
class Thing:
    """One thing of a scene; `place` is its centre as shares of the canvas."""

    size: str
    color: str
    shape: str
    box: tuple[float, float, float, float]
    place: tuple[float, float]

    @property
    def area(self) -> float:
        """Width times height, in square pixels."""
        x1, y1, x2, y2 = self.box
        return (x2 - x1) * (y2 - y1)

    @property
    def look(self) -> tuple[str, str, str]:
        """Size, colour and shape; no two things of a scene share all three."""
        return self.size, self.color, self.shape


@dataclass(frozen=True)
class Scene:
    """One image of the world; width and height in pixels."""

    image_id: int
    split: str
    width: int
    height: int
    things: tuple[Thing, ...]


def child(seed: int, purpose: str, number: int = 0) -> np.random.Generator:
    """Return a generator of its own for `purpose`, so that one task's draws never shift another's."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), number])


def pick(items: Sequence[T], rng: np.random.Generator) -> T:
    """Return one of `items`, of which there must be one, each equally likely."""
    return items[int(rng.integers(len(items)))]


def draw_scenes(images: int, seed: int) -> list[Scene]:
    """Return `images` scenes: three fifths train2014, then val2014, then test2015 (a fifth each).

    A small world gives val2014 six scenes at least: the captions' dev and test splits come out of it.
    """
    ids = child(seed, "image ids").choice(np.arange(1, _LARGEST_ID), size=images, replace=False)
    train = images * 3 // 5
    val = max(6, images // 5)
    splits = ["train2014"] * train + ["val2014"] * val + ["test2015"] * (images - train - val)
    return [
        draw_scene(int(image_id), split, child(seed, "scene", int(image_id)))
        for image_id, split in zip(ids, splits, strict=True)
    ]


def draw_scene(image_id: int, split: str, rng: np.random.Generator) -> Scene:
    """Draw the canvas and its three to six things, which look different and hardly overlap."""
    width, height = int(rng.integers(600, 681)), int(rng.integers(440, 521))
    things: list[Thing] = []
    wanted = int(rng.choice(list(_HOW_MANY), p=list(_HOW_MANY.values())))
    while len(things) < wanted:
        thing = _draw_thing(things, width, height, rng)
        if all(_apart(thing, other) for other in things):
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
    return str(rng.choice(seen if seen and rng.random() < _REPEATED else values))


def _apart(thing: Thing, other: Thing) -> bool:
    return thing.look != other.look and pairwise_iou([thing.box], [other.box])[0, 0] <= _MOST_OVERLAP
