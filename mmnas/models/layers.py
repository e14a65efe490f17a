"""The layers that operations and heads are made of (paper section 3.1).

Letters: B batch, Q queries, K keys, H hidden size, I inner width of an attention, h heads, w head
width, R relation size, G glimpses. Masks are bool and true where valid.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmnas.models.relation import Relation, RelationReader

# Large enough to vanish in a softmax, finite so that a row without any valid key stays finite.
MASKED_LOGIT = -1e9


def mask_to_bias(mask: Tensor) -> Tensor:
    """Return float32 zeros where `mask` is true and `MASKED_LOGIT` elsewhere, of the same shape."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, MASKED_LOGIT)


class LayerNorm(nn.Module):
    """The paper's layer norm, `gain * (x - mean) / (std + 1e-6) + shift`, with the unbiased std.

    `torch.nn.LayerNorm` divides by the biased std. Its fused kernel can be used all the same: the ratio of
    the two, sqrt((H - 1) / H), goes into the gain. The epsilon outside the root is left out (1e-12 under
    it keeps constant rows finite), which changes a normalized row by 1e-6 / std of itself: below 1e-5
    from a std of about 0.5 on, as all rows but those of a fresh embedding have.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(size))
        self.shift = nn.Parameter(torch.zeros(size))
        self.unbiased = math.sqrt((size - 1) / size)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last axis."""
        return F.layer_norm(x, self.gain.shape, self.gain * self.unbiased, self.shift, eps=1e-12)


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention of h = inner / head_width heads; no projection has a bias.

    With `relation_size`, a relation may add a bias of its own to the scaled logits of every head.
    """

    def __init__(self, hidden: int, inner: int, head_width: int, dropout: float, relation_size: int = 0) -> None:
        super().__init__()
        if inner % head_width:
            raise ValueError(f"inner width {inner} is not a multiple of the head width {head_width}")
        self.head_width = head_width
        self.dropout = nn.Dropout(dropout)
        self.value = nn.Linear(hidden, inner, bias=False)
        self.key = nn.Linear(hidden, inner, bias=False)
        self.query = nn.Linear(hidden, inner, bias=False)
        self.relation = RelationReader(relation_size, inner // head_width) if relation_size else None
        self.merge = nn.Linear(inner, hidden, bias=False)

    def forward(
        self, x: Tensor, source: Tensor, mask: Tensor | None = None, relation: Relation | None = None
    ) -> Tensor:
        """Let x (B, Q, H) attend to source (B, K, H) where mask (B, K) is true; return (B, Q, H)."""
        attended = self.attend(*self.project(x, source), self.bias(mask, relation))
        return self.merge(attended.transpose(1, 2).flatten(2))  # (B, h, Q, w) -> (B, Q, I) -> (B, Q, H)

    def bias(self, mask: Tensor | None, relation: Relation | None) -> Tensor | None:
        """Return what mask (B, K) and relation add to the logits, (B, 1, 1, K) or (B, h, Q, K), or None."""
        bias = None if mask is None else mask_to_bias(mask)[:, None, None]  # (B, 1, 1, K)
        if relation is not None and self.relation is not None:
            bias = relation.bias(self.relation) + (0 if bias is None else bias)  # (B, h, Q, K)
        return bias

    def project(self, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, h, Q, w) of x, keys and values (B, h, K, w) of source."""
        return self.split(self.query(x)), *self.keys_values(source)

    def keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, each (B, h, K, w), of source (B, K, H)."""
        return self.split(self.key(source)), self.split(self.value(source))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """Return softmax(query @ key.T / sqrt(w) + bias) @ value, (B, h, Q, w), dropout on the softmax."""
        bias = None if bias is None else bias.to(query.dtype)
        return F.scaled_dot_product_attention(query, key, value, bias, self.dropout.p if self.training else 0.0)

    def split(self, x: Tensor) -> Tensor:
        """Cut x (B, K, I) into heads, (B, h, K, w)."""
        return x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)


class MLP(nn.Module):
    """Linear, ReLU, dropout, Linear."""

    def __init__(self, size: int, inner: int, out: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(size, inner)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(inner, out)

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis from `size` to `out`."""
        return self.output(self.dropout(F.relu(self.hidden(x))))


class AttentionPooling(nn.Module):
    """AttFlat: each glimpse is a softmax over the valid positions; the weighted sums are merged."""

    def __init__(self, hidden: int, inner: int, glimpses: int, out: int, dropout: float) -> None:
        super().__init__()
        self.mlp = MLP(hidden, inner, glimpses, dropout)
        self.merge = nn.Linear(glimpses * hidden, out)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pool x (B, K, H) under mask (B, K) to (B, out)."""
        logits = self.mlp(x).float() + mask_to_bias(mask)[:, :, None]  # (B, K, G)
        pooled = logits.softmax(dim=1).to(x.dtype).transpose(1, 2) @ x  # (B, G, K) @ (B, K, H) -> (B, G, H)
        return self.merge(pooled.flatten(1))  # (B, G * H) -> (B, out)
