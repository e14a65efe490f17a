"""Regions: what a detector would report of a scene, as boxes and as feature vectors.

A feature is a fixed random projection of what a region shows (shape, colour, size or background, and its
place and extent) plus noise, so that a network can learn all of it from features alone. The projection
is a constant of the world and does not depend on the world's seed: worlds share one "detector".
"""

import numpy as np

from mmnas.boxes import pairwise_iou
from mmnas.demo.scenes import COLORS, SHAPES, SIZES, Scene, Thing

BACKGROUNDS = 3  # kinds of background, each with its own direction in feature space
LEAST_IOU = 0.6  # of a jittered detection with its thing

_MOST_BACKGROUND_IOU = 0.3
_JITTER = 0.08  # standard deviation of a corner, as a share of the box's side
_KNOTS = np.linspace(0, 1, 7)  # centres of the radial codes of a place
_WAVER = 0.03  # standard deviation of the code itself: no two red things look quite the same
_GAIN = 0.7  # makes a feature's entries of order 1
_NOISE = 0.5  # standard deviation of the noise of an entry

LOOK = len(SHAPES) + len(COLORS) + len(SIZES) + BACKGROUNDS  # entries of a code before its place
CODE = LOOK + 4 + 2 * len(_KNOTS)


class FeatureSpace:
    """One detector's feature space: codes (K, CODE) -> features (K, width)."""

    def __init__(self, width: int, constant: int) -> None:
        rng = np.random.default_rng(constant)
        self.projection = rng.standard_normal((CODE, width), dtype=np.float32) * np.float32(_GAIN)

    def encode(self, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return noisy float32 features (K, width) of codes (K, CODE)."""
        wavering = codes + np.float32(_WAVER) * rng.standard_normal(codes.shape, dtype=np.float32)
        # Not a matrix product: its threads would make the last bits depend on the number of cores.
        features = np.einsum("kc,cd->kd", wavering, self.projection)
        return features + np.float32(_NOISE) * rng.standard_normal(features.shape, dtype=np.float32)


def detect(scene: Scene, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes (count, 4) float32, xyxy pixels, and codes (count, CODE) of regions in shuffled order.

    Each thing is found once, some again (more of them where `count` is large); the rest is background.
    """
    repeats = [thing for thing in scene.things for _ in range(max(1, count // 12)) if rng.random() < 0.5]
    found = [*scene.things, *repeats][: count - 2]
    regions = [(_code(thing), _jittered(thing, scene, rng)) for thing in found]
    while len(regions) < count:
        regions.append((_background_code(rng), _background_box(scene, rng)))
    order = rng.permutation(count)
    boxes = np.array([regions[i][1] for i in order], dtype=np.float32)
    looks = np.array([regions[i][0] for i in order], dtype=np.float32)
    return boxes, np.concatenate([looks, place_codes(boxes, scene.width, scene.height)], axis=1)


def place_codes(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return the place part (K, CODE - LOOK) of the codes of boxes (K, 4): linear, then radial codes.

    They are weaker than a look, as in real features, where what a thing is outweighs where it is.
    """
    canvas = np.array([width, height], dtype=np.float32)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 / canvas  # (K, 2), shares
    extents = (boxes[:, 2:] - boxes[:, :2] + 1) / canvas
    linear = np.concatenate([0.8 * centres - 0.4, 0.2 * np.log(extents) + 0.3], axis=1)
    distances = (centres[:, :, None] - _KNOTS) * (len(_KNOTS) - 1)  # (K, 2, knots)
    radial = 0.25 * np.exp(-(distances**2) / 2).reshape(len(boxes), -1)
    return np.concatenate([linear, radial], axis=1).astype(np.float32)


def _code(thing: Thing) -> np.ndarray:
    """Return the look (LOOK,) of a thing: one entry each for its shape, colour and size."""
    code = np.zeros(LOOK)
    code[SHAPES.index(thing.shape)] = 1
    code[len(SHAPES) + COLORS.index(thing.color)] = 1
    code[len(SHAPES) + len(COLORS) + SIZES.index(thing.size)] = 1
    return code


def _background_code(rng: np.random.Generator) -> np.ndarray:
    code = np.zeros(LOOK)
    code[LOOK - 1 - int(rng.integers(BACKGROUNDS))] = 1
    return code


def _jittered(thing: Thing, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Return the box (4,) of a detection whose IoU with the thing is at least LEAST_IOU."""
    exact = np.array(thing.box)
    sides = np.tile(exact[2:] - exact[:2], 2)
    while True:
        box = _within(exact + rng.normal(0, _JITTER, 4) * sides, scene)
        if pairwise_iou([box], [exact])[0, 0] >= LEAST_IOU:
            return box


def _background_box(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Return a box (4,) anywhere in the scene that no thing fits."""
    things = [thing.box for thing in scene.things]
    canvas = np.array([scene.width, scene.height])
    while True:
        sides = rng.uniform(0.08, 0.5, 2) * canvas
        corner = rng.uniform(0, canvas - 1 - sides)
        box = _within(np.concatenate([corner, corner + sides]), scene)
        if pairwise_iou([box], things).max() < _MOST_BACKGROUND_IOU:
            return box


def _within(box: np.ndarray, scene: Scene) -> np.ndarray:
    return np.clip(box, 0, np.tile([scene.width - 1, scene.height - 1], 2))
