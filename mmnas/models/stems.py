"""The two stems: how tokens and regions become streams of width H (paper section 3.1.1).

Letters: B batch, T tokens, N regions, D region feature size, H hidden size.
"""

import torch
from torch import Tensor, nn

from mmnas.models.precision import in_float32


class TokenStem(nn.Module):
    """Word embedding (initialized from word vectors, trained) and a one-layer LSTM."""

    def __init__(self, *, vocabulary_size: int, word_size: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, word_size)
        self.lstm = nn.LSTM(word_size, hidden, batch_first=True)

    @in_float32
    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids (B, T) to (B, T, H), float32. Padding is at the end, so valid outputs never see it."""
        return self.lstm(self.embedding(tokens))[0]


class RegionStem(nn.Module):
    """Linear(D -> H); with `box_size`, Linear(5 -> box_size) of the normalized box is concatenated first."""

    def __init__(self, *, feature_size: int, hidden: int, box_size: int = 0) -> None:
        super().__init__()
        self.box_linear = nn.Linear(5, box_size) if box_size else None
        self.linear = nn.Linear(feature_size + box_size, hidden)

    def forward(self, features: Tensor, boxes: Tensor, image_sizes: Tensor) -> Tensor:
        """Map features (B, N, D), boxes (B, N, 4) xyxy pixels, sizes (B, 2) to (B, N, H)."""
        if self.box_linear is not None:
            box = self.box_linear(normalize_boxes(boxes, image_sizes))  # (B, N, 5) -> (B, N, box_size)
            features = torch.cat([features, box], dim=-1)
        return self.linear(features)


def normalize_boxes(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """Return x1/w, y1/h, x2/w, y2/h, area fraction: (B, N, 5). `image_sizes` (B, 2) are height, width."""
    scale = image_sizes.flip(-1).repeat(1, 2)[:, None]  # (B, 1, 4): w, h, w, h
    shares = boxes / scale
    area = (shares[..., 2] - shares[..., 0]) * (shares[..., 3] - shares[..., 1])
    return torch.cat([shares, area[..., None]], dim=-1)
