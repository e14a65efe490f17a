"""The region files of the world: the boxes and features that a detector would report, one `.npz` per image.

A feature is a fixed random projection of what a region shows (shape, color, size or background; position, extent)
plus noise, so that a network can learn all of it from features alone. The projection does not depend on the world's
seed: all worlds share one "detector".
"""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from mmnas.boxes import pairwise_iou
from mmnas.demo.scenes import COLORS, SHAPES, SIZES, Scene, Thing, child

VQA_REGIONS = (10, 18)  # fewest and most per image; the published files have 10 to 100
GROUNDING_REGIONS = 24  # the published files have 100, too many for a laptop
MASK_RCNN_REGIONS = 20  # likewise
CAPTION_REGIONS = 36  # as in the published files
GROUNDING_FOLDERS = ("refcoco_unc", "refcoco+_unc", "refcocog_umd")
BACKGROUNDS = 3  # kinds of background, each with its own direction in feature space
MIN_IOU = 0.6  # of a detection with its thing

_MAX_BACKGROUND_IOU = 0.3
_JITTER = 0.08  # standard deviation of a corner, as a fraction of the box's side
_KNOTS = np.linspace(0, 1, 7)  # centers of the radial codes of a position
_WAVER = 0.03  # standard deviation of the code itself: no two red things look quite the same
_GAIN = 0.7  # makes a feature's entries of order 1
_NOISE = 0.5  # standard deviation of the noise of an entry

LOOK = len(SHAPES) + len(COLORS) + len(SIZES) + BACKGROUNDS  # entries of a code for the look of a region
CODE = LOOK + 4 + 2 * len(_KNOTS)  # all entries of a code


def projection(width: int, detector: int) -> np.ndarray:
    """Return the projection (CODE, width) of a detector, which is made from its number."""
    return np.random.default_rng(detector).standard_normal((CODE, width), dtype=np.float32) * np.float32(_GAIN)


def encode(codes: np.ndarray, project: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return noisy float32 features (K, width) of codes (K, CODE)."""
    wavering = codes + np.float32(_WAVER) * rng.standard_normal(codes.shape, dtype=np.float32)
    # Not a matrix product: with several threads, its last bits would depend on the number of cores.
    features = np.einsum("kc,cd->kd", wavering, project)
    return features + np.float32(_NOISE) * rng.standard_normal(features.shape, dtype=np.float32)


def detect(scene: Scene, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes (count, 4) float32, xyxy pixels, and codes (count, CODE) of regions in shuffled order.

    Each thing is found once, some again (more of them where `count` is large); the rest is background.
    """
    repeats = [thing for thing in scene.things for _ in range(max(1, count // 12)) if rng.random() < 0.5]
    found = [*scene.things, *repeats][: count - 2]
    regions = [(_look(thing), _jittered_box(thing, scene, rng)) for thing in found]
    regions += [_background(scene, rng) for _ in range(count - len(found))]
    order = rng.permutation(count)
    boxes = np.array([regions[i][1] for i in order], dtype=np.float32)
    looks = np.array([regions[i][0] for i in order], dtype=np.float32)
    return boxes, np.concatenate([looks, position_codes(boxes, scene.width, scene.height)], axis=1)


def position_codes(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return the position part (K, CODE - LOOK) of the codes of boxes (K, 4): linear, then radial codes.

    They are weaker than the look, as in real features, where what a thing is outweighs where it is.
    """
    canvas = np.array([width, height], dtype=np.float32)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2 / canvas  # (K, 2), fractions
    extents = (boxes[:, 2:] - boxes[:, :2] + 1) / canvas
    linear = np.concatenate([0.8 * centers - 0.4, 0.2 * np.log(extents) + 0.3], axis=1)
    distances = (centers[:, :, None] - _KNOTS) * (len(_KNOTS) - 1)  # (K, 2, knots)
    radial = 0.25 * np.exp(-(distances**2) / 2).reshape(len(boxes), -1)
    return np.concatenate([linear, radial], axis=1).astype(np.float32)


def _look(thing: Thing) -> np.ndarray:
    """Return the look (LOOK,) of a thing: one entry each is 1 for its shape, color and size."""
    return np.array([*(word in thing.look for word in (*SHAPES, *COLORS, *SIZES)), *[False] * BACKGROUNDS])


def _jittered_box(thing: Thing, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Return the box (4,) of a detection whose IoU with the thing is at least MIN_IOU."""
    exact = np.array(thing.box)
    sides = np.tile(exact[2:] - exact[:2], 2)
    last_pixel = np.tile([scene.width - 1, scene.height - 1], 2)
    while True:
        box = np.clip(exact + rng.normal(0, _JITTER, 4) * sides, 0, last_pixel)
        if pairwise_iou([box], [exact])[0, 0] >= MIN_IOU:
            return box


def _background(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the look (LOOK,) of some background, and a box (4,) that hardly overlaps with any thing."""
    look = np.arange(LOOK) == LOOK - 1 - int(rng.integers(BACKGROUNDS))
    canvas = np.array([scene.width, scene.height])
    while True:
        sides = rng.uniform(0.08, 0.5, 2) * canvas
        corner = rng.uniform(0, canvas - 1 - sides)
        box = np.concatenate([corner, corner + sides])
        if pairwise_iou([box], [thing.box for thing in scene.things]).max() < _MAX_BACKGROUND_IOU:
            return look, box


def write_region_files(out: Path, scenes: list[Scene], seed: int) -> None:
    """Write the features of all scenes to every folder where a task looks for them."""
    bottom_up, mask_rcnn = projection(2048, 1), projection(2048 + 1024, 2)
    for scene in scenes:
        purposes = ("vqa regions", "grounding regions", "caption regions", "mask r-cnn regions")
        vqa, grounding, captions, masks = (child(seed, purpose, scene.image_id) for purpose in purposes)
        name, coco = f"{scene.coco_name('train2014')}.npz", Path(scene.split, f"{scene.coco_name()}.npz")

        count = int(vqa.integers(VQA_REGIONS[0], VQA_REGIONS[1] + 1))
        _write([out / "coco_extract" / coco], scene, **_bottom_up(scene, count, bottom_up, vqa))
        paths = [out / "vgd_coco" / "fix100" / folder / name for folder in GROUNDING_FOLDERS]
        _write(paths, scene, **_bottom_up(scene, GROUNDING_REGIONS, bottom_up, grounding))
        paths = [out / "flickr_rois_resnet101_fix36" / f"{scene.flickr_name}.npz"]
        if scene.split != "test2015":  # COCO has captions of train2014 and val2014 only
            paths.append(out / "rois_resnet101_fix36" / coco)
        _write(paths, scene, **_bottom_up(scene, CAPTION_REGIONS, bottom_up, captions))

        boxes, codes = detect(scene, MASK_RCNN_REGIONS, masks)
        fc7, pool5 = np.split(encode(codes, mask_rcnn, masks), [2048], axis=1)
        _write([out / "detfeat100_woref" / f"{scene.image_id}.npz"], scene, fc7=fc7, pool5=pool5, bbox=boxes)


def _bottom_up(scene: Scene, count: int, project: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Return `count` regions as the published files have them: features (2048, K), and the number of boxes."""
    boxes, codes = detect(scene, count, rng)
    return {"x": np.ascontiguousarray(encode(codes, project, rng).T), "bbox": boxes, "num_boxes": count}


def _write(paths: list[Path], scene: Scene, **arrays: Any) -> None:
    """Write one file to all of `paths`."""
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    np.savez(paths[0], **arrays, image_h=scene.height, image_w=scene.width)
    link_or_copy(paths[0], paths[1:])


def link_or_copy(path: Path, others: list[Path]) -> None:
    """Link `others` to the file at `path`; copy it where links do not work."""
    for other in others:
        other.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, other)
        except OSError:
            shutil.copyfile(path, other)
