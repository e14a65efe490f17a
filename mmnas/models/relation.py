"""Relation features: the geometry of every ordered pair of regions (paper section 3.1.2).

Made on the device, once per forward, from the boxes that travel with a batch; all RSA blocks share it.
Letters: B batch, N regions, R relation size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Centres nearer than this share of the first box's side count as that near.
NEAREST = 1e-3


def relation_features(boxes: Tensor, mask: Tensor) -> Tensor:
    """Return (B, N, N, 4): log centre distances over the first box's size, log size ratios.

    `boxes` (B, N, 4) are xyxy pixels, inclusive (a side is x2 - x1 + 1), float32; `mask` (B, N) is
    true where a region is real. Pairs with a padded region are zero.
    """
    x1, y1, x2, y2 = boxes.float().unbind(-1)  # each (B, N)
    width, height = x2 - x1 + 1, y2 - y1 + 1
    features = torch.stack(
        [
            _log_distance((x1 + x2) / 2, width),
            _log_distance((y1 + y2) / 2, height),
            _log_ratio(width),
            _log_ratio(height),
        ],
        dim=-1,
    )
    pairs = mask[:, :, None] & mask[:, None, :]  # (B, N, N)
    return features.masked_fill(~pairs[..., None], 0.0)


def _log_distance(centre: Tensor, side: Tensor) -> Tensor:
    distance = (centre[:, :, None] - centre[:, None, :]).abs() / side[:, :, None]  # (B, N, N)
    return distance.clamp(min=NEAREST).log()


def _log_ratio(side: Tensor) -> Tensor:
    log_side = side.log()
    return log_side[:, :, None] - log_side[:, None, :]


class RelationEmbedding(nn.Module):
    """`relu(Linear(4 -> R))` of the relation features."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4, size)

    def forward(self, boxes: Tensor, mask: Tensor) -> Tensor:
        """Embed boxes (B, N, 4) under mask (B, N) as (B, N, N, R)."""
        return F.relu(self.linear(relation_features(boxes, mask)))
