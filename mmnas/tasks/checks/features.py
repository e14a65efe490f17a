"""Region features of any task: which images lack them, and whether those that are read are whole."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from tqdm import tqdm

from mmnas.data.features import Regions, RegionSource, require_images
from mmnas.tasks.checks.report import Report

SAMPLED = 32
"""Images that are read unless all are asked for."""


def check_images(
    report: Report, source: RegionSource, images: Mapping[str, Iterable[int]], needed: Iterable[str]
) -> list[int]:
    """Show, per split, its images and those without features; return the images that have some, ascending.

    Images without features are a fault in the splits `needed`, elsewhere a warning.
    """
    report.line(f"  in {source.describe()}")
    with_features: set[int] = set()
    for split, image_ids in images.items():
        wanted = set(image_ids)
        found = {image_id for image_id in wanted if image_id in source}
        with_features |= found
        report.count(f"images of {split}, {len(wanted) - len(found)} without features", len(wanted))
        with report.going_on(split in needed):
            require_images(source, wanted, split)
    return sorted(with_features)


def read_images(
    report: Report, source: RegionSource, image_ids: list[int], full: bool, known: tuple[int, int]
) -> Iterator[tuple[int, Regions]]:
    """Read some images, evenly spread, or all; give those that are whole, each other one is a fault.

    The numbers of regions are shown at the end; any outside of `known`, fewest and most, are a warning.
    """
    chosen = image_ids if full else image_ids[:: max(1, -(-len(image_ids) // SAMPLED))]
    regions = []
    for image_id in tqdm(chosen, desc="features", unit=" images", disable=not full):
        with report.going_on():
            image = source[image_id]
            regions.append(len(np.asarray(image.features)))  # a store reads features when they are needed
            yield image_id, image
    report.count(f"of {len(image_ids)} images read, {len(chosen) - len(regions)} damaged", len(chosen))
    if regions:
        fewest, most = min(regions), max(regions)
        report.line(f"  {fewest} to {most} regions, mean {sum(regions) / len(regions):.1f}")
        if not known[0] <= fewest <= most <= known[1]:
            usual = f"{known[0]}" if known[0] == known[1] else f"{known[0]} to {known[1]}"
            report.problem(f"images have {fewest} to {most} regions, the published ones {usual}", False)
