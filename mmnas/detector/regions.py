"""From pixels to regions: the network's input, anchors, proposals, and the choice among them.

Boxes are xyxy pixels, both corners inclusive, as in `mmnas.boxes`. `pixels` are those of the network's input,
which is the image enlarged or reduced by `scale`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmnas.boxes import nms, pairwise_iou
from mmnas.boxes.geometry import clip_boxes, decode_boxes
from mmnas.data.features import Regions
from mmnas.data.made_by import Choice
from mmnas.detector.network import Described, Detector
from mmnas.detector.pooling import STRIDE
from mmnas.errors import DataError

MEAN = (102.9801, 115.9465, 122.7717)  # of blue, green, red
SHORT_SIDE, LONG_SIDE = 600, 1000  # of the network's input: the short side, unless the long one becomes longer
SMALLEST = 16  # sides of a box, in pixels of the image
_BEFORE_NMS, _PROPOSALS = 6000, 300
_PROPOSAL_IOU, _CLASS_IOU = 0.7, 0.3
_LARGEST_OFFSET = float(np.log(1000 / 16))  # of the logarithms of width and height


@dataclass(frozen=True, slots=True)
class DetectedRegions(Regions):
    """The regions of one image, and the best class of 1600 and attribute of 400 of each, with its probability.

    `best` holds them, (K,) each, by their keys in npz files: objects_id, objects_conf, attrs_id, attrs_conf.
    """

    best: dict[str, np.ndarray]


def detect(network: Detector, image: np.ndarray, choice: Choice) -> DetectedRegions:
    """Return the regions chosen in an image (h, w, 3) uint8, blue first. Raises DataError where there are none."""
    pixels, scale = network_input(image, network.cell_anchors.device)
    with torch.inference_mode():
        res4, foreground, offsets = network(pixels)
        boxes, _ = propose(network.cell_anchors, foreground, offsets, pixels.shape[-2:], scale)
        if len(boxes) == 0:
            raise DataError("the detector finds no region in it")
        described = network.describe(res4, boxes)
    boxes = boxes / scale
    confidence = best_confidence(boxes.cpu().numpy(), described.objects.cpu().numpy())
    return _regions(image, boxes, described, select(confidence, choice))


def describe_given(network: Detector, image: np.ndarray, boxes: np.ndarray) -> DetectedRegions:
    """Return the regions at given boxes (K, 4), pixels of the image (h, w, 3), in their order."""
    pixels, scale = network_input(image, network.cell_anchors.device)
    given = torch.from_numpy(boxes.astype(np.float32))
    with torch.inference_mode():
        res4 = network.backbone(pixels)
        described = network.describe(res4, given.to(pixels.device) * scale)
    return _regions(image, given, described, np.arange(len(boxes)))


def network_input(image: np.ndarray, device: torch.device) -> tuple[Tensor, float]:
    """Return the network's input (1, 3, h', w') of an image (h, w, 3) uint8, blue first, and its scale.

    Raises DataError for an image too small or too narrow to hold a region.
    """
    height, width = image.shape[:2]
    scale = SHORT_SIDE / min(height, width)
    if round(scale * max(height, width)) > LONG_SIDE:
        scale = LONG_SIDE / max(height, width)
    if min(height, width) < SMALLEST or round(scale * min(height, width)) < SMALLEST:
        raise DataError(f"{width} x {height} pixels are too small or too narrow for the detector")
    upper, lower, lower_fraction = _sources(height, scale, device)
    left, right, fraction = _sources(width, scale, device)
    mean = torch.tensor(MEAN, device=device)
    pixels = torch.from_numpy(image).to(device)

    def resized(row: Tensor) -> Tensor:  # (h', w', 3)
        values = pixels.index_select(0, row).float() - mean
        return values.index_select(1, left).lerp_(values.index_select(1, right), fraction[:, None])

    result = resized(upper).lerp_(resized(lower), lower_fraction[:, None, None])
    return result.permute(2, 0, 1)[None].contiguous(), scale


def _sources(size: int, scale: float, device: torch.device) -> list[Tensor]:
    """Return between which two of `size` pixels each resized one lies, and the fraction of the second.

    Half-pixel centers, no antialiasing.
    """
    position = (np.arange(round(size * scale)) + 0.5) / scale - 0.5  # not the ratio of the rounded sizes
    whole = np.floor(position)
    first, second = (np.clip(whole + step, 0, size - 1).astype(np.int64) for step in (0, 1))
    fraction = (position - whole).astype(np.float32)
    return [torch.from_numpy(values).to(device) for values in (first, second, fraction)]


def cell_anchors() -> Tensor:
    """Return Caffe's anchors (12, 4) of the cell at the origin: 3 shapes, each in 4 sizes."""
    boxes = []
    for ratio in (0.5, 1.0, 2.0):
        width = np.round(np.sqrt(256 / ratio))
        sides = np.array([width, np.round(width * ratio)])
        for size in (4, 8, 16, 32):
            half = (sides * size - 1) / 2
            boxes.append(np.concatenate([7.5 - half, 7.5 + half]))
    return torch.from_numpy(np.stack(boxes)).float()


def propose(
    anchors: Tensor, foreground: Tensor, offsets: Tensor, size: Sequence[int], scale: float
) -> tuple[Tensor, Tensor]:
    """Return the at most 300 best boxes (N, 4) and their foreground probabilities (N,), best first.

    `anchors` (A, 4) of one cell, `foreground` (1, A, H, W) and `offsets` (1, 4A, H, W) from the network, `size`
    the height and width of its input.
    """
    height, width = foreground.shape[-2:]
    y, x = (STRIDE * torch.arange(count, device=anchors.device) for count in (height, width))
    shifts = torch.stack([*torch.meshgrid(x, y, indexing="xy")] * 2, dim=-1)  # (H, W, 4)
    moved = (shifts[:, :, None] + anchors).view(-1, 4)  # (H * W * A, 4)
    offsets = offsets.view(-1, 4, height, width).permute(2, 3, 0, 1).reshape(-1, 4)
    offsets = torch.cat([offsets[:, :2], offsets[:, 2:].clamp(max=_LARGEST_OFFSET)], dim=1)
    boxes = clip_boxes(decode_boxes(moved, offsets), torch.tensor(size, device=anchors.device))
    scores = foreground[0].permute(1, 2, 0).flatten()
    large = ((boxes[:, 2:] - boxes[:, :2] + 1) >= SMALLEST * scale).all(dim=1)
    boxes, scores = boxes[large], scores[large]
    best = scores.sort(descending=True, stable=True).indices[:_BEFORE_NMS]
    kept = nms(boxes[best].cpu().numpy(), scores[best].cpu().numpy(), _at_least(_PROPOSAL_IOU))[:_PROPOSALS]
    chosen = best[torch.from_numpy(kept).to(best.device)]
    return boxes[chosen], scores[chosen]


def _at_least(iou: float) -> float:
    """Return the threshold by which `nms` suppresses from `iou` on; by itself, it keeps a box at exactly that."""
    return float(np.nextafter(np.float32(iou), np.float32(0)))


def best_confidence(boxes: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Return for boxes (N, 4) the best probability (N,) among the classes in which suppression keeps them.

    `objects` (N, 1601) are the probabilities. Each class but the background suppresses for itself, all in step:
    the best box of every class suppresses its neighbors, then the second best, and so on.
    """
    far = pairwise_iou(boxes, boxes) < np.float32(_CLASS_IOU)
    np.fill_diagonal(far, True)
    probabilities = np.ascontiguousarray(objects[:, 1:].T)  # (1600, N)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    kept = np.ones(probabilities.shape, bool)
    classes = np.arange(len(probabilities))
    for box in order.T:  # (1600,) the box of one rank in each class
        alive = kept[classes, box]
        kept[alive] &= far[box[alive]]
    return np.where(kept, probabilities, 0).max(axis=0)


def select(confidence: np.ndarray, choice: Choice) -> np.ndarray:
    """Return the indices of the boxes to keep, given the confidence (N,) of each.

    Those from the threshold on stay in the order of the proposals; where they are too few or too many, the most
    confident come first.
    """
    kept = np.flatnonzero(confidence >= np.float32(choice.threshold))
    if choice.least <= len(kept) <= choice.most:
        return kept
    count = choice.least if len(kept) < choice.least else choice.most
    return np.argsort(-confidence, kind="stable")[:count]


def _regions(image: np.ndarray, boxes: Tensor, described: Described, kept: np.ndarray) -> DetectedRegions:
    rows = torch.from_numpy(kept).to(described.features.device)
    best: dict[str, np.ndarray] = {}
    for what, probabilities in (("objects", described.objects), ("attrs", described.attributes)):
        values, ids = probabilities[rows, 1:].max(dim=1)  # 1: without background
        best |= {f"{what}_id": ids.cpu().numpy(), f"{what}_conf": values.cpu().numpy()}
    size = np.array(image.shape[:2], np.float32)
    boxes = boxes[rows.to(boxes.device)]
    return DetectedRegions(described.features[rows].cpu().numpy(), boxes.cpu().numpy(), size, best)
