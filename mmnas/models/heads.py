"""Parts that the heads of several tasks share (paper section 3.3).

Letters: B batch, T tokens, N regions, H hidden size, P pooled size (2H), A outputs.
"""

from torch import Tensor, nn

from mmnas.models.layers import AttentionPooling, LayerNorm


class FusionHead(nn.Module):
    """Pool both streams, add, normalise, classify: logits (B, A). VQA has A answers, matching has one."""

    def __init__(self, *, hidden: int, pooling_size: int, glimpses: int, pooled: int, outputs: int, dropout: float):
        super().__init__()
        pooling = {
            "hidden": hidden,
            "inner": pooling_size,
            "glimpses": glimpses,
            "out": pooled,
            "dropout": dropout,
        }
        self.language_pooling = AttentionPooling(**pooling)
        self.region_pooling = AttentionPooling(**pooling)
        self.norm = LayerNorm(pooled)
        self.classifier = nn.Linear(pooled, outputs)

    def forward(self, language: Tensor, token_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        """Return logits (B, A) from language (B, T, H) and regions (B, N, H)."""
        fused = self.language_pooling(language, token_mask) + self.region_pooling(regions, region_mask)  # (B, P)
        return self.classifier(self.norm(fused))
