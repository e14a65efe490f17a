"""The layers that operations and heads are made of (paper section 3.1).

Letters: B batch, Q queries, K keys, H hidden size, I inner width of an attention, h heads, w head
width, R relation size, G glimpses. Masks are bool and true where valid.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmnas.models.linear import Dropout, Linear, on_plain_cpu
from mmnas.models.relation import relation_term

# Large enough to vanish in a softmax, finite so that a row without any valid key stays finite.
MASKED_LOGIT = -1e9


def mask_to_bias(mask: Tensor) -> Tensor:
    """Return float32 zeros where `mask` is true and `MASKED_LOGIT` elsewhere, of the same shape."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, MASKED_LOGIT)


class LayerNorm(nn.Module):
    """The paper's layer norm, `gain * (x - mean) / (std + 1e-6) + shift`, with the unbiased std.

    `torch.nn.LayerNorm` divides by the biased std. The fused kernel serves all the same: the ratio of
    the two, sqrt((H - 1) / H), goes into the gain. The epsilon outside the root is left out (1e-12 under
    it keeps constant rows finite), which changes a normalised row by 1e-6 / std of itself: below 1e-5
    from a std of about 0.5 on, as all rows but those of a fresh embedding have.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(size))
        self.shift = nn.Parameter(torch.zeros(size))
        self.unbiased = math.sqrt((size - 1) / size)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return F.layer_norm(x, self.gain.shape, self.gain * self.unbiased, self.shift, eps=1e-12)


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention of h = inner / head_width heads; no projection has a bias.

    With `relation_size` given, every head adds `log(clamp(relu(Linear(relation)), 1e-6))` to its scaled
    logits; that linear does have a bias.
    """

    def __init__(
        self, *, hidden: int, inner: int, head_width: int, dropout: float, relation_size: int | None = None
    ) -> None:
        super().__init__()
        if inner % head_width:
            raise ValueError(f"inner width {inner} is no multiple of the head width {head_width}")
        self.head_width = head_width
        self.dropout = Dropout(dropout)
        self.value = Linear(hidden, inner, bias=False)
        self.key = Linear(hidden, inner, bias=False)
        self.query = Linear(hidden, inner, bias=False)
        self.relation = Linear(relation_size, inner // head_width) if relation_size else None
        self.merge = Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor, source: Tensor, source_mask: Tensor | None, relation: Tensor | None) -> Tensor:
        """Let x (B, Q, H) attend to source (B, K, H); relation (B, Q, K, R). Returns (B, Q, H)."""
        return self.attend(x, *self.keys_values(source), source_mask, self.relation_term(relation))

    def keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, each (B, h, K, w), of source (B, K, H)."""
        return self._split(self.key(source)), self._split(self.value(source))

    def relation_term(self, relation: Tensor | None) -> Tensor | None:
        """Return what a relation (B, Q, K, R) adds to the logits, (B, h, Q, K) float32; None if built without."""
        if self.relation is None:
            return None
        assert relation is not None
        return relation_term(relation, self.relation.weight, self.relation.bias)

    def attend(
        self, x: Tensor, key: Tensor, value: Tensor, source_mask: Tensor | None, term: Tensor | None
    ) -> Tensor:
        """Let x (B, Q, H) attend to keys and values, with a relation term where there is one; (B, Q, H)."""
        query = self._split(self.query(x))  # (B, h, Q, w)
        bias = None if source_mask is None else mask_to_bias(source_mask)[:, None, None]  # (B, 1, 1, K)
        if term is not None:
            bias = term + (0 if bias is None else bias)  # (B, h, Q, K)
        attended = self._sum_values(query, key, value, None if bias is None else bias.to(query.dtype))
        return self.merge(attended.transpose(1, 2).flatten(2))  # (B, h, Q, w) -> (B, Q, I) -> (B, Q, H)

    def _sum_values(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        share = self.dropout.p if self.training else 0.0
        if not share or not on_plain_cpu(query):
            return F.scaled_dot_product_attention(query, key, value, bias, share)
        # No kernel on a CPU is fused with dropout; written out, it can be the fast one.
        logits = (query * self.head_width**-0.5) @ key.transpose(2, 3)  # (B, h, Q, K)
        if bias is not None:
            logits += bias
        return self.dropout(logits.softmax(dim=-1)) @ value

    def fold(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply keys by the query projection and values by the merge, each (B, h, K, w) -> (B, h * K, H)."""
        return self._fold(key * self.head_width**-0.5, self.query.weight), self._fold(value, self.merge.weight.T)

    def _fold(self, x: Tensor, weight: Tensor) -> Tensor:
        """Multiply x (B, h, K, w) by each head's rows of weight (I, H) to (B, h * K, H)."""
        rows = x.transpose(0, 1).flatten(1, 2)  # (h, B * K, w)
        product = rows @ weight.unflatten(0, (-1, self.head_width))  # (h, B * K, w) @ (h, w, H)
        return product.unflatten(1, (len(x), -1)).transpose(0, 1).flatten(1, 2)  # (h, B, K, H) -> (B, h * K, H)

    def attend_folded(self, x: Tensor, keys: Tensor, values: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """Return what `attend` does without a term, of x (B, Q, H) and folded keys and values.

        Where many queries meet few keys this spares projecting each query and each sum.
        """
        heads = self.key.out_features // self.head_width
        logits = (x @ keys.transpose(1, 2)).unflatten(-1, (heads, -1))  # (B, Q, h * K) -> (B, Q, h, K)
        if source_mask is not None:
            logits = logits + mask_to_bias(source_mask)[:, None, None]  # (B, 1, 1, K)
        shares = self.dropout(logits.softmax(dim=-1))
        return shares.to(values.dtype).flatten(2) @ values  # (B, Q, H)

    def folding_pays(self, queries: int, keys: int) -> bool:
        """Whether folding saves time on a CPU, where products of batches run at about a sixth of the speed."""
        inner, heads = self.key.out_features, self.key.out_features // self.head_width
        return keys * (inner + 6 * heads * queries) < queries * inner

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)  # (B, K, I) -> (B, h, K, w)


class MLP(nn.Module):
    """Linear, ReLU, dropout, Linear."""

    def __init__(self, *, size: int, inner: int, out: int, dropout: float) -> None:
        super().__init__()
        self.hidden = Linear(size, inner)
        self.dropout = Dropout(dropout)
        self.output = Linear(inner, out)

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis from `size` to `out`."""
        rows = x.flatten(0, -2)  # a ReLU in place asks for a tensor that is no view of another
        hidden = F.relu(self.dropout(self.hidden(rows)), inplace=True)  # dropout may come first: it only scales
        return self.output(hidden).view(*x.shape[:-1], -1)


class AttentionPooling(nn.Module):
    """AttFlat: each glimpse is a softmax over the valid positions; the weighted sums are merged."""

    def __init__(self, *, hidden: int, inner: int, glimpses: int, out: int, dropout: float) -> None:
        super().__init__()
        self.mlp = MLP(size=hidden, inner=inner, out=glimpses, dropout=dropout)
        self.merge = Linear(glimpses * hidden, out)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pool x (B, K, H) under mask (B, K) to (B, out)."""
        logits = self.mlp(x).float() + mask_to_bias(mask)[:, :, None]  # (B, K, G)
        pooled = logits.softmax(dim=1).to(x.dtype).transpose(1, 2) @ x  # (B, G, K) @ (B, K, H) -> (B, G, H)
        return self.merge(pooled.flatten(1))  # (B, G * H) -> (B, out)
