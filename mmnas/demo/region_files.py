"""The feature files of the world: one `.npz` per image, in every folder where a task looks for one.

The world's counts of regions are smaller than the published 100 for grounding, which keeps it on a laptop.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from mmnas.demo.regions import FeatureSpace, detect
from mmnas.demo.scenes import Scene, child

VQA_REGIONS = (10, 18)  # fewest and most per image; the published files have 10 to 100
GROUNDING_REGIONS = 24  # the published files have 100
MASK_RCNN_REGIONS = 20  # likewise
CAPTION_REGIONS = 36  # as in the published files
GROUNDING_FOLDERS = ("refcoco_unc", "refcoco+_unc", "refcocog_umd")

_BOTTOM_UP = {"width": 2048, "constant": 1}
_MASK_RCNN = {"width": 2048 + 1024, "constant": 2}  # fc7, then pool5


def flickr_name(scene: Scene) -> str:
    """Return the file name of a scene's photograph in Flickr30K."""
    return f"{1_000_000_000 + scene.image_id}.jpg"


def coco_name(scene: Scene, split: str) -> str:
    """Return the file name of a scene's photograph in COCO; grounding calls every image train2014."""
    return f"COCO_{split}_{scene.image_id:012d}.jpg"


def write_region_files(out: Path, scenes: list[Scene], seed: int) -> None:
    """Write the features of all scenes for VQA, grounding (both kinds) and retrieval."""
    bottom_up, mask_rcnn = FeatureSpace(**_BOTTOM_UP), FeatureSpace(**_MASK_RCNN)
    for scene in scenes:
        _write_vqa(out, scene, bottom_up, child(seed, "vqa regions", scene.image_id))
        _write_grounding(out, scene, bottom_up, child(seed, "grounding regions", scene.image_id))
        _write_mask_rcnn(out, scene, mask_rcnn, child(seed, "mask r-cnn regions", scene.image_id))
        _write_captioned(out, scene, bottom_up, child(seed, "caption regions", scene.image_id))


def _write_vqa(out: Path, scene: Scene, space: FeatureSpace, rng: np.random.Generator) -> None:
    boxes, codes = detect(scene, int(rng.integers(VQA_REGIONS[0], VQA_REGIONS[1] + 1)), rng)
    path = out / "coco_extract" / scene.split / f"{coco_name(scene, scene.split)}.npz"
    _save_bottom_up([path], scene, boxes, space.encode(codes, rng))


def _write_grounding(out: Path, scene: Scene, space: FeatureSpace, rng: np.random.Generator) -> None:
    boxes, codes = detect(scene, GROUNDING_REGIONS, rng)
    name = f"{coco_name(scene, 'train2014')}.npz"
    paths = [out / "vgd_coco" / "fix100" / folder / name for folder in GROUNDING_FOLDERS]
    _save_bottom_up(paths, scene, boxes, space.encode(codes, rng))


def _write_mask_rcnn(out: Path, scene: Scene, space: FeatureSpace, rng: np.random.Generator) -> None:
    boxes, codes = detect(scene, MASK_RCNN_REGIONS, rng)
    fc7, pool5 = np.split(space.encode(codes, rng), [2048], axis=1)
    path = out / "detfeat100_woref" / f"{scene.image_id}.npz"
    _save([path], fc7=fc7, pool5=pool5, bbox=boxes, image_h=scene.height, image_w=scene.width)


def _write_captioned(out: Path, scene: Scene, space: FeatureSpace, rng: np.random.Generator) -> None:
    boxes, codes = detect(scene, CAPTION_REGIONS, rng)
    paths = [out / "flickr_rois_resnet101_fix36" / f"{flickr_name(scene)}.npz"]
    if scene.split != "test2015":  # COCO's captions are of train2014 and val2014 only
        name = f"{coco_name(scene, scene.split)}.npz"
        paths.append(out / "rois_resnet101_fix36" / scene.split / name)
    _save_bottom_up(paths, scene, boxes, space.encode(codes, rng))


def _save_bottom_up(paths: list[Path], scene: Scene, boxes: np.ndarray, features: np.ndarray) -> None:
    """Save features (K, 2048) as the published files have them: regions last, and a count nobody needs."""
    _save(
        paths,
        x=np.ascontiguousarray(features.T),
        bbox=boxes,
        num_boxes=len(boxes),
        image_h=scene.height,
        image_w=scene.width,
    )


def _save(paths: list[Path], **arrays: Any) -> None:
    """Save one file at the first of `paths`, linked from the others; copied where links do not work."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(paths[0], **arrays)
    for other in paths[1:]:
        try:
            os.link(paths[0], other)
        except OSError:
            shutil.copyfile(paths[0], other)
