"""The unified encoder-decoder (paper section 3.1): chained language blocks, chained image blocks.

Letters: B batch, T tokens, N regions, H hidden size, R relation size. Masks are true where valid.
"""

from collections.abc import Iterable

from torch import Tensor, nn

from mmnas.models.operations import Relation


class EncoderDecoder(nn.Module):
    """A chain of encoder blocks over tokens, a chain of decoder blocks over regions.

    Every block follows the signature of `operations.Operation`; every decoder block may read the final
    encoder output. The two halves are apart so that retrieval can encode a caption once.
    """

    def __init__(self, encoder: Iterable[nn.Module], decoder: Iterable[nn.Module]) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(encoder)
        self.decoder = nn.ModuleList(decoder)

    def encode(self, tokens: Tensor, token_mask: Tensor | None) -> Tensor:
        """Chain the encoder blocks over tokens (B, T, H) under token_mask (B, T)."""
        for block in self.encoder:
            tokens = block(tokens, token_mask)
        return tokens

    def decode(
        self,
        regions: Tensor,
        region_mask: Tensor,
        memory: Tensor,
        memory_mask: Tensor,
        relation: Relation,
    ) -> Tensor:
        """Chain the decoder blocks over regions (B, N, H); memory (B, T, H), relation as blocks take it."""
        for block in self.decoder:
            regions = block(regions, region_mask, memory, memory_mask, relation)
        return regions
