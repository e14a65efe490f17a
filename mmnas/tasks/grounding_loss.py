"""Targets and loss of grounding: targets for every region of a sample, the loss over a batch.

Letters: B batch, N regions of the batch, K regions of an image. Boxes are xyxy pixels, inclusive.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmnas.batch import Batch
from mmnas.boxes import pairwise_iou
from mmnas.boxes.geometry import encode_boxes, normalize_offsets
from mmnas.metrics.grounding import CORRECT_IOU

LOSSES = ("kld", "bce")
# Weights of the score loss and the box loss in the total.
SCORE_WEIGHT, BOX_WEIGHT = 1.0, 0.5
# bce: the target score from each IoU upwards.
_BCE_LEVELS = np.array([CORRECT_IOU, 0.6, 0.7], np.float32)
_BCE_SCORES = np.array([0, 0.8, 0.9, 1], np.float32)


def grounding_targets(boxes: np.ndarray, reference: np.ndarray, loss: str) -> dict[str, np.ndarray]:
    """Return the targets of one sample from boxes (K, 4) and its reference (4,), both float32.

    region_scores (K,)      kld: the IoU where it is at least 0.5, normalized to sum to one; bce: 0, 0.8, 0.9 or 1
    region_matches (K,)     whether the IoU is at least 0.5
    region_offsets (K, 4)   from each box to the reference, divided by their standard deviations
    score_weight ()         0 where no region matches, else 1
    """
    ious = pairwise_iou(boxes, reference[None])[:, 0]
    matches = ious >= CORRECT_IOU
    if loss == "bce":
        scores = _BCE_SCORES[np.searchsorted(_BCE_LEVELS, ious, side="right")]
    else:
        kept = np.where(matches, ious, np.float32(0))
        scores = kept / (kept.sum() + np.float32(1e-8))
    offsets = normalize_offsets(encode_boxes(torch.from_numpy(boxes), torch.from_numpy(reference)))
    return {
        "region_scores": scores,
        "region_matches": matches,
        "region_offsets": offsets.numpy(),
        "score_weight": np.array(matches.any(), np.float32),
    }


def loss_totals(batch: Batch) -> dict[str, Tensor]:
    """Return the divisors of the sums over a batch: scored samples and matching regions, at least one."""
    return {
        "scored_samples": batch["score_weight"].sum().clamp(min=1),
        "matching_regions": batch["region_matches"].sum().clamp(min=1),
    }


def grounding_loss(scores: Tensor, offsets: Tensor, batch: Batch, loss: str) -> dict[str, Tensor]:
    """Return the losses `score`, `box` and their weighted `total`, each a scalar.

    `scores` (B, N) are log-softmax for kld, logits for bce; `offsets` (B, N, 4). The batch holds the targets
    and `loss_totals`. Padded regions and samples without a matching region do not contribute.
    """
    weight = batch["score_weight"][:, None] * batch["region_mask"]  # (B, N)
    if loss == "bce":
        parts = F.binary_cross_entropy_with_logits(scores.float(), batch["region_scores"], reduction="none")
    else:
        parts = F.kl_div(scores.float(), batch["region_scores"], reduction="none")
    score = (parts * weight).sum() / batch["scored_samples"]
    distances = F.smooth_l1_loss(offsets.float(), batch["region_offsets"], reduction="none").sum(dim=-1)  # (B, N)
    box = (distances * batch["region_matches"]).sum() / batch["matching_regions"]
    return {"total": SCORE_WEIGHT * score + BOX_WEIGHT * box, "score": score, "box": box}
