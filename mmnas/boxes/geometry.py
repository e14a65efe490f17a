"""Boxes on the device, in torch: regression offsets, decoding, clipping and elementwise IoU.

Boxes (..., 4) are x1, y1, x2, y2 in pixels, both corners inclusive: a box is x2 - x1 + 1 wide, and its center is
x1 + width / 2. Offsets (..., 4) are those of Faster R-CNN: the shift of the center in x and y, divided by the
proposal's size, then the log ratios of width and height. Leading dimensions broadcast.
"""

import torch
from torch import Tensor

# The published regression head divides its targets by these, in the order of the offsets.
OFFSET_STDS = (0.1, 0.1, 0.2, 0.2)


def encode_boxes(proposals: Tensor, targets: Tensor) -> Tensor:
    """Return the offsets (..., 4) that lead from proposals (..., 4) to targets (..., 4).

    Widths and heights must be positive, or the offset is not finite. All-zero padding is fine: it counts as one
    pixel.
    """
    centers, sizes = _centers_and_sizes(proposals)
    target_centers, target_sizes = _centers_and_sizes(targets)
    return torch.cat([(target_centers - centers) / sizes, torch.log(target_sizes / sizes)], dim=-1)


def decode_boxes(proposals: Tensor, offsets: Tensor) -> Tensor:
    """Return proposals (..., 4) moved and resized by offsets (..., 4).

    As in the published code, the far corner is center + size / 2, without the inclusive -1: decoding the result of
    `encode_boxes` returns the target one pixel wider and higher. The published accuracies were measured this way.
    """
    centers, sizes = _centers_and_sizes(proposals)
    shifts, log_ratios = offsets.split(2, dim=-1)  # each (..., 2)
    centers = centers + shifts * sizes
    half_sizes = sizes * torch.exp(log_ratios) / 2
    return torch.cat([centers - half_sizes, centers + half_sizes], dim=-1)


def normalize_offsets(offsets: Tensor) -> Tensor:
    """Return the targets of the regression head: offsets (..., 4) divided by `OFFSET_STDS`."""
    return offsets / offsets.new_tensor(OFFSET_STDS)


def unnormalize_offsets(normalized: Tensor) -> Tensor:
    """Return the offsets that the regression head predicts: its output (..., 4) times `OFFSET_STDS`."""
    return normalized * normalized.new_tensor(OFFSET_STDS)


def clip_boxes(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """Return boxes (..., 4) clipped to 0 to width - 1 and 0 to height - 1.

    `image_sizes` (..., 2) are height, width in pixels; for several boxes per image (B, N, 4) pass (B, 1, 2).
    """
    last_pixel = (image_sizes.flip(-1) - 1).to(boxes.dtype)  # (..., 2) as x, y
    return torch.minimum(boxes.clamp(min=0), torch.cat([last_pixel, last_pixel], dim=-1))


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the IoU (...) of each box (..., 4) with the box at the same index in others (..., 4).

    As in `mmnas.boxes.pairwise_iou`, it is 0, never NaN, for a box with a width or height that is not positive or a
    NaN coordinate. For targets and evaluation; not meant to be differentiated.
    """
    corner = torch.maximum(boxes[..., :2], others[..., :2])
    far_corner = torch.minimum(boxes[..., 2:], others[..., 2:])
    intersection = (far_corner - corner + 1).clamp(min=0).prod(dim=-1)
    union = _area(boxes) + _area(others) - intersection
    return torch.where(union > 0, intersection / union, 0)


def _centers_and_sizes(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return centers and sizes, each (..., 2) as x, y."""
    corners, far_corners = boxes.split(2, dim=-1)
    sizes = far_corners - corners + 1
    return corners + sizes / 2, sizes


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2] + 1).prod(dim=-1)
