"""The unified encoder-decoder (paper section 3.1): chained language blocks, chained image blocks.

Letters: B batch, T tokens, N regions, H hidden size. Masks are true where valid.
"""

from collections.abc import Iterable

from torch import Tensor, nn

from mmnas.models.operations import Mask, Memory
from mmnas.models.relation import Relation


class EncoderDecoder(nn.Module):
    """A chain of encoder blocks over tokens, a chain of decoder blocks over regions.

    Every block has the signature of `operations.Operation`; every decoder block may read the final
    encoder output. The two halves are separate so that retrieval can encode a caption once.
    """

    def __init__(self, encoder: Iterable[nn.Module], decoder: Iterable[nn.Module]) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(encoder)
        self.decoder = nn.ModuleList(decoder)

    def encode(self, tokens: Tensor, mask: Mask) -> Tensor:
        """Chain the encoder blocks over tokens (B, T, H) under mask (B, T)."""
        for block in self.encoder:
            tokens = block(tokens, mask, None, None)
        return tokens

    def decode(self, regions: Tensor, mask: Mask, memory: Memory, relation: Relation | None) -> Tensor:
        """Chain the decoder blocks over regions (B, N, H) under mask (B, N)."""
        for block in self.decoder:
            regions = block(regions, mask, memory, relation)
        return regions
