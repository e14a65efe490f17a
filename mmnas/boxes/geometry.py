"""Boxes on the device, in torch: regression offsets, decoding, clipping and elementwise IoU.

Boxes (..., 4) are x1, y1, x2, y2 in pixels, both corners inclusive: a box is x2 - x1 + 1 wide, and its
centre is x1 + width / 2. Offsets (..., 4) are those of Faster R-CNN: the shift of the centre over the
proposal's size in x and y, then the log ratios of width and height. Leading dimensions broadcast.
"""

import torch
from torch import Tensor

# What the published regression head divides its targets by, in the order of the offsets.
OFFSET_STDS = (0.1, 0.1, 0.2, 0.2)


def encode_boxes(proposals: Tensor, targets: Tensor) -> Tensor:
    """Return the offsets (..., 4) that lead from proposals (..., 4) to targets (..., 4).

    Widths and heights must be positive, else the offset is not finite; all-zero padding counts as one
    pixel and is fine.
    """
    centres, sizes = _centres_and_sizes(proposals)
    target_centres, target_sizes = _centres_and_sizes(targets)
    return torch.cat([(target_centres - centres) / sizes, torch.log(target_sizes / sizes)], dim=-1)


def decode_boxes(proposals: Tensor, offsets: Tensor) -> Tensor:
    """Return the boxes (..., 4) that offsets (..., 4) make of proposals (..., 4).

    As in the published code, the far corner is centre + size / 2 without the inclusive -1: decoding
    what `encode_boxes` gave returns a target one pixel wider and higher. The published accuracies are
    measured so.
    """
    centres, sizes = _centres_and_sizes(proposals)
    shifts, log_ratios = offsets.split(2, dim=-1)  # each (..., 2)
    centres = centres + shifts * sizes
    half_sizes = sizes * torch.exp(log_ratios) / 2
    return torch.cat([centres - half_sizes, centres + half_sizes], dim=-1)


def normalise_offsets(offsets: Tensor) -> Tensor:
    """Divide offsets (..., 4) by `OFFSET_STDS`: the target of the regression head."""
    return offsets / offsets.new_tensor(OFFSET_STDS)


def unnormalise_offsets(normalised: Tensor) -> Tensor:
    """Multiply what the regression head predicts (..., 4) by `OFFSET_STDS`."""
    return normalised * normalised.new_tensor(OFFSET_STDS)


def clip_boxes(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """Return boxes (..., 4) moved into 0 to width - 1 and 0 to height - 1.

    `image_sizes` (..., 2) are height, width in pixels; for several boxes (B, N, 4) of each image pass
    (B, 1, 2).
    """
    last_pixel = (image_sizes.flip(-1) - 1).to(boxes.dtype)  # (..., 2) as x, y
    return torch.minimum(boxes.clamp(min=0), torch.cat([last_pixel, last_pixel], dim=-1))


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the IoU (...) of each box (..., 4) with the box at its place in others (..., 4).

    The same rule as `mmnas.boxes.pairwise_iou`: 0, never NaN, for a box without positive width and
    height or with a NaN coordinate. Meant for targets and evaluation, not to be differentiated.
    """
    corner = torch.maximum(boxes[..., :2], others[..., :2])
    far_corner = torch.minimum(boxes[..., 2:], others[..., 2:])
    intersection = (far_corner - corner + 1).clamp(min=0).prod(dim=-1)
    union = _area(boxes) + _area(others) - intersection
    return torch.where(union > 0, intersection / union, 0)


def _centres_and_sizes(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return centres and sizes, each (..., 2) as x, y."""
    corners, far_corners = boxes.split(2, dim=-1)
    sizes = far_corners - corners + 1
    return corners + sizes / 2, sizes


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2] + 1).prod(dim=-1)
