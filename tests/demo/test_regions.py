"""The demo world's region files: layout, boxes, and features from which attributes can be learnt."""

from pathlib import Path

import numpy as np

from mmnas.boxes import pairwise_iou
from mmnas.demo.regions import detect, encode, projection
from mmnas.demo.scenes import COLORS, Scene, child, draw_scenes


def test_region_files_hold_features_and_boxes_inside_the_image(world, scenes):
    kinds = {
        "coco_extract/*/*.npz": (range(10, 19), 30),
        "vgd_coco/fix100/*/*.npz": ([24], 3 * 30),
        "rois_resnet101_fix36/*/*.npz": ([36], 24),
        "flickr_rois_resnet101_fix36/*.npz": ([36], 30),
    }
    for pattern, (counts, files) in kinds.items():
        paths = list(world.glob(pattern))
        assert len(paths) == files
        for path in paths:
            scene = scenes[image_id_of(path)]
            with np.load(path) as npz:
                assert npz["x"].dtype == np.float32 and npz["x"].shape == (2048, len(npz["bbox"]))
                assert npz["num_boxes"] == len(npz["bbox"]) and len(npz["bbox"]) in counts
                assert (npz["image_w"], npz["image_h"]) == (scene.width, scene.height)
                check_boxes(npz["bbox"], scene)
                assert 0.5 < npz["x"].std() < 3


def check_boxes(boxes: np.ndarray, scene: Scene) -> None:
    assert boxes.min() >= 0 and (boxes[:, 2:] > boxes[:, :2]).all()
    assert (boxes[:, 2:] <= [scene.width - 1, scene.height - 1]).all()
    assert (pairwise_iou([thing.box for thing in scene.things], boxes).max(axis=1) >= 0.6 - 1e-4).all()


def image_id_of(path: Path) -> int:
    number = int(path.name.split("_")[-1].split(".")[0])
    return number - 1_000_000_000 if "flickr" in str(path.parent.name) else number


def test_mask_rcnn_files_are_named_by_the_image_and_hold_two_layers(world, scenes):
    paths = list((world / "detfeat100_woref").iterdir())
    assert {int(path.stem) for path in paths} == set(scenes)
    with np.load(paths[0]) as npz:
        assert npz["fc7"].shape == (20, 2048) and npz["pool5"].shape == (20, 1024)
        check_boxes(npz["bbox"], scenes[int(paths[0].stem)])


def test_attributes_can_be_read_off_the_features():
    """Nearest class mean over regions of other scenes: far above chance, so there is something to learn."""
    project, rows = projection(256, 1), []
    for scene in draw_scenes(80, 3):
        boxes, codes = detect(scene, 12, child(3, "test", scene.image_id))
        features = encode(codes, project, child(3, "noise", scene.image_id))
        best = pairwise_iou([thing.box for thing in scene.things], boxes).argmax(axis=1)
        rows += [(features[k], thing.color) for thing, k in zip(scene.things, best, strict=True)]
    means = {color: np.mean([x for x, c in rows[:200] if c == color], axis=0) for color in COLORS}
    guesses = [min(means, key=lambda color: np.linalg.norm(x - means[color])) for x, _ in rows[200:]]
    assert np.mean([guess == color for guess, (_, color) in zip(guesses, rows[200:], strict=True)]) > 0.6
