"""The loss of image-text matching (paper section 3.3). Letter: B batch."""

import torch.nn.functional as F
from torch import Tensor

MARGIN = 0.2


def matching_loss(positive: Tensor, negative_caption: Tensor, negative_image: Tensor, loss: str) -> Tensor:
    """Return the summed loss of logits (B,) of a pair, of its image with another caption, and the reverse.

    `bce` counts the positive once per negative, as published; `margin` compares probabilities.
    """
    if loss == "bce":
        negatives = F.softplus(negative_caption).sum() + F.softplus(negative_image).sum()
        return 2 * F.softplus(-positive).sum() + negatives
    own = positive.sigmoid()
    caption, image = (F.relu(MARGIN + other.sigmoid() - own).sum() for other in (negative_caption, negative_image))
    return caption + image
