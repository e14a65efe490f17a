"""Relation features: the geometry of every ordered pair of regions (paper section 3.1.2).

Made on the device, once per forward, from the boxes that travel with a batch; all RSA blocks share it.
Letters: B batch, N regions, R relation size, h heads.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmnas.models.linear import Linear, linear, on_plain_cpu

# Centres nearer than this share of the first box's side count as that near.
NEAREST = 1e-3
# The relation term is a logarithm; its argument is kept from zero by this floor.
RELATION_FLOOR = 1e-6
# Pairs of regions that a CPU embeds at a time: (pairs, R) then stays in its caches.
PAIRS_AT_A_TIME = 20_000


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
        self.linear = Linear(4, size)

    def forward(self, boxes: Tensor, mask: Tensor) -> Tensor:
        """Embed boxes (B, N, 4) under mask (B, N) as (B, N, N, R)."""
        return F.relu(self.linear(relation_features(boxes, mask)))

    def terms(self, boxes: Tensor, mask: Tensor, readers: Sequence[nn.Linear]) -> dict[nn.Module, Tensor]:
        """Return what `relation_term` gives, (B, h, N, N), for each reader, a Linear(R -> h).

        The embedding serves all readers in one product and is kept neither for them nor for the backward pass,
        which computes it anew.
        """
        features = relation_features(boxes, mask)  # (B, N, N, 4)
        weight, bias = (torch.cat([getattr(each, name) for each in readers]) for name in ("weight", "bias"))
        parameters = self.linear.weight, self.linear.bias, weight, bias
        at_a_time = max(1, PAIRS_AT_A_TIME // features.shape[1] ** 2) if on_plain_cpu(features) else len(features)
        parts = [
            checkpoint(_terms, part, *parameters, use_reentrant=False, preserve_rng_state=False)
            for part in features.split(at_a_time)
        ]
        joined = torch.cat(parts)  # (B, heads of all, N, N)
        sizes = [each.out_features for each in readers]
        return dict(zip(readers, joined.split(sizes, dim=1), strict=True))


def relation_term(relation: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return what a relation (B, Q, K, R) adds to the logits of its readers: (B, h, Q, K) float32."""
    term = linear(relation, weight, bias).float().clamp(min=RELATION_FLOOR).log()  # relu, then the floor
    return term.permute(0, 3, 1, 2).contiguous()  # fused attention on a GPU asks for keys side by side


def _terms(features: Tensor, weight: Tensor, bias: Tensor, readers_weight: Tensor, readers_bias: Tensor) -> Tensor:
    return relation_term(F.relu(linear(features, weight, bias)), readers_weight, readers_bias)
