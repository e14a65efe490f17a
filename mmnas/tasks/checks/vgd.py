"""The check of RefCOCO, RefCOCO+ and RefCOCOg: expressions, region features, and how well the two meet."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from mmnas.boxes import pairwise_iou
from mmnas.config import Config
from mmnas.data import refs
from mmnas.data.features import Regions
from mmnas.data.refs import Expression
from mmnas.data.sources import grounding_features
from mmnas.metrics.grounding import CORRECT_IOU
from mmnas.tasks.checks.features import check_images, read_images
from mmnas.tasks.checks.report import Report
from mmnas.text.vocabulary import Vocabulary

# Expressions of the published splits; regions of an image, fewest and most, by kind of features.
EXPRESSIONS = {
    "refcoco": {"train": 120624, "val": 10834, "testA": 5657, "testB": 5095},
    "refcoco+": {"train": 120191, "val": 10758, "testA": 5726, "testB": 4889},
}
REGIONS = {"vg_woref": (100, 100), "coco_mrcn": (1, 100)}


def check_vgd(config: Config, report: Report, full: bool) -> None:
    """Check the files of one data set; a test split may be missing, val is scored where it is held out."""
    dataset = config.data.dataset
    report.title(f"files under {config.paths.data}")
    found = _read(config, report)
    report.title("expressions")
    for split in refs.splits_of(dataset):
        report.count(f"expressions of {split}", len(found.get(split, ())), EXPRESSIONS.get(dataset, {}).get(split))
    token_lists = (expression.tokens for expressions in found.values() for expression in expressions)
    report.words(list(Vocabulary.from_token_lists(token_lists).words), config)
    report.title("region features")
    with report.going_on():
        _check_features(config, report, found, full)


def _read(config: Config, report: Report) -> dict[str, list[Expression]]:
    """Show the originals and what is kept of them; return the expressions of every split that can be had."""
    root, dataset = config.paths.data, config.data.dataset
    splits = refs.splits_of(dataset)
    folder = Path(root) / "refs" / dataset
    originals = [report.file(folder / name) for name in ("instances.json", f"refs({refs.split_by(dataset)}).p")]
    kept = [split for split in splits if (folder / f"{split}.json").is_file()]
    for split in kept:
        report.file(folder / f"{split}.json")
    if not all(originals) and not kept:  # one fault for all splits
        with report.going_on():
            return refs.find_expressions(root, dataset, splits)
        return {}
    found: dict[str, list[Expression]] = {}
    for split in splits:
        with report.going_on(needed=all(originals) or split in (*kept, "train", "val")):
            found |= refs.find_expressions(root, dataset, [split])
    return found


def _check_features(config: Config, report: Report, found: dict[str, list[Expression]], full: bool) -> None:
    """Look at the features, and whether some region meets each expression of the images that are read."""
    paths, data = config.paths, config.data
    source = grounding_features(
        paths.data, paths.features, data.dataset, data.feature_kind, config.model.feature_size
    )
    images = {split: [expression.image_id for expression in found[split]] for split in found}
    there = check_images(report, source, images, needed=("train", "val"))
    boxes = defaultdict(list)
    for expression in (expression for expressions in found.values() for expression in expressions):
        boxes[expression.image_id].append(expression.box)
    met = [
        _met(image, np.array(boxes[image_id], np.float32), data.max_regions)
        for image_id, image in read_images(report, source, there, full, REGIONS[data.feature_kind])
    ]
    if met:
        each = np.concatenate(met)
        report.share("expressions of these images without a region to learn", int((~each).sum()), len(each))
        if not each.any():
            report.problem("no region meets any expression: boxes and expressions are of different images")


def _met(image: Regions, references: np.ndarray, max_regions: int) -> np.ndarray:
    """Return for each reference box (E, 4) whether a region of its image is a target."""
    best = pairwise_iou(image.boxes[:max_regions], references).max(axis=0)  # (K, E) -> (E,)
    return np.greater_equal(best, CORRECT_IOU)
