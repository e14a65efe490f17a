"""Relation features: the geometry of every ordered pair of regions (paper section 3.1.2).

They are computed on the device, once per forward pass, from the boxes of a batch; all RSA blocks share them.
Letters: B batch, N regions, R relation size, h heads.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmnas.models.precision import in_float32

# Distances between centers below this fraction of the first box's side are raised to it.
NEAREST = 1e-3
# The relation bias is a logarithm; this floor keeps its argument above zero.
RELATION_FLOOR = 1e-6


def relation_features(boxes: Tensor, mask: Tensor) -> Tensor:
    """Return (B, N, N, 4): log center distances over the first box's size, log size ratios.

    `boxes` (B, N, 4) are xyxy pixels, inclusive (a side is x2 - x1 + 1), float32; `mask` (B, N) is
    true where a region is real. Pairs with a padded region are zero.
    """
    x1, y1, x2, y2 = boxes.float().unbind(-1)  # each (B, N)
    width, height = x2 - x1 + 1, y2 - y1 + 1
    distances = _log_distance((x1 + x2) / 2, width), _log_distance((y1 + y2) / 2, height)
    features = torch.stack([*distances, _log_ratio(width), _log_ratio(height)], dim=-1)
    pairs = mask[:, :, None] & mask[:, None, :]  # (B, N, N)
    return features.masked_fill(~pairs[..., None], 0.0)


def _log_distance(center: Tensor, side: Tensor) -> Tensor:
    distance = (center[:, :, None] - center[:, None, :]).abs() / side[:, :, None]  # (B, N, N)
    return distance.clamp(min=NEAREST).log()


def _log_ratio(side: Tensor) -> Tensor:
    log_side = side.log()
    return log_side[:, :, None] - log_side[:, None, :]


class RelationEmbedding(nn.Module):
    """`relu(Linear(4 -> R))` of the relation features."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4, size)

    @in_float32
    def forward(self, boxes: Tensor, mask: Tensor) -> Tensor:
        """Embed boxes (B, N, 4) under mask (B, N) as (B, N, N, R)."""
        return F.relu(self.linear(relation_features(boxes, mask)))


class RelationReader(nn.Linear):
    """Turns a relation into what it adds to an attention's logits: `log(clamp(relu(Linear(R -> h)), 1e-6))`."""

    @in_float32
    def forward(self, relation: Tensor) -> Tensor:
        """Map a relation (B, N, N, R) to a bias (B, h, N, N), float32."""
        return log_bias(super().forward(relation))


def log_bias(read: Tensor) -> Tensor:
    """Return the logarithm of what readers read, (B, N, N, h), as a bias (B, h, N, N), float32."""
    bias = read.float().clamp(min=RELATION_FLOOR).log()  # the floor includes the ReLU
    return bias.permute(0, 3, 1, 2).contiguous()  # fused attention on a GPU asks for contiguous keys


def join(readers: Sequence[RelationReader]) -> tuple[Tensor, Tensor]:
    """Return the weights and biases of all readers as those of one."""
    return torch.cat([each.weight for each in readers]), torch.cat([each.bias for each in readers])


class Relation:
    """The relation of every pair of regions, as operations see it: it hands out the bias of each reader.

    `read` computes a reader's bias (B, h, N, N), or looks up what was computed before. With `rows`, the relation
    is that of the images which they name. `masked` says that the biases include the mask.
    """

    def __init__(
        self, read: Callable[[RelationReader], Tensor], rows: Tensor | None = None, masked: bool = False
    ) -> None:
        self.read, self.rows, self.masked = read, rows, masked

    def bias(self, reader: RelationReader) -> Tensor:
        """Return what the relation adds to the logits of the attention that `reader` belongs to."""
        bias = self.read(reader)
        return bias if self.rows is None else bias.index_select(0, self.rows)
