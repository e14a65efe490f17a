"""Parts that the heads of several tasks share (paper section 3.3).

Letters: B batch, T tokens, N regions, H hidden size, P pooled size (2H), A outputs.
"""

from torch import Tensor, nn

from mmnas.models.layers import AttentionPooling, LayerNorm, mask_to_bias
from mmnas.models.precision import in_float32


class FusionHead(nn.Module):
    """Pool both streams, add, normalize, classify: logits (B, A). VQA has A answers, matching has one."""

    def __init__(self, *, hidden: int, pooling_size: int, glimpses: int, pooled: int, outputs: int, dropout: float):
        super().__init__()
        self.language_pooling = AttentionPooling(hidden, pooling_size, glimpses, pooled, dropout)
        self.region_pooling = AttentionPooling(hidden, pooling_size, glimpses, pooled, dropout)
        self.norm = LayerNorm(pooled)
        self.classifier = nn.Linear(pooled, outputs)

    def forward(self, language: Tensor, token_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """Return logits (B, A), float32, from language (B, T, H) and regions (B, N, H)."""
        return self.classify(self.language_pooling(language, token_mask), self.region_pooling(regions, region_mask))

    @in_float32
    def classify(self, language: Tensor, regions: Tensor) -> Tensor:
        """Return logits (B, A), float32, from both pooled streams, each (B, P)."""
        return self.classifier(self.norm(language + regions))


class GroundingHead(nn.Module):
    """Add the pooled language to every region, normalize; score each region and regress its box."""

    def __init__(
        self, *, hidden: int, pooling_size: int, glimpses: int, pooled: int, dropout: float, softmax: bool = True
    ) -> None:
        super().__init__()
        self.language_pooling = AttentionPooling(hidden, pooling_size, glimpses, pooled, dropout)
        self.region_linear = nn.Linear(hidden, pooled)
        self.norm = LayerNorm(pooled)
        self.score = nn.Linear(pooled, 1)
        self.box = nn.Linear(pooled, 4)
        self.softmax = softmax

    def forward(
        self, language: Tensor, token_mask: Tensor, regions: Tensor, region_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return scores (B, N) and box offsets (B, N, 4) from language (B, T, H) and regions (B, N, H).

        Both are float32. The scores are a log-softmax over the valid regions, or logits when built without;
        padded regions have about `MASKED_LOGIT` either way.
        """
        query = self.language_pooling(language, token_mask)[:, None]  # (B, P) -> (B, 1, P)
        scores, offsets = self.read(query, self.region_linear(regions))
        logits = scores[..., 0] + mask_to_bias(region_mask)  # (B, N, 1) -> (B, N)
        return logits.log_softmax(dim=-1) if self.softmax else logits, offsets

    @in_float32
    def read(self, language: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (B, N, 1), box offsets (B, N, 4) from pooled language (B, 1, P) and regions (B, N, P)."""
        fused = self.norm(language + regions)  # (B, N, P)
        return self.score(fused), self.box(fused)
