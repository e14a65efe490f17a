"""The whole network: stems, relation embedding, encoder-decoder, task head (paper figure 2).

Letters: B batch, T tokens, N regions, D region feature size, H hidden size.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.fx.experimental._config as shapes
from torch import Tensor, nn

from mmnas.errors import ConfigError
from mmnas.genotype import Genotype
from mmnas.models.encoder_decoder import EncoderDecoder
from mmnas.models.operations import Memory, Sizes, build_blocks
from mmnas.models.relation import Relation, RelationEmbedding, RelationReader
from mmnas.models.stems import RegionStem, TokenStem


class MMNasNet(nn.Module):
    """From a batch to the output of the task's head.

    The head is called with the encoded language (B, T, H), its mask, the decoded regions (B, N, H) and
    theirs. Without `relation` no block may read relation features.
    """

    def __init__(
        self,
        token_stem: TokenStem,
        region_stem: RegionStem,
        relation: RelationEmbedding | None,
        backbone: EncoderDecoder,
        head: nn.Module,
    ) -> None:
        super().__init__()
        self.token_stem = token_stem
        self.region_stem = region_stem
        self.relation = relation
        self.backbone = backbone
        self.head = head

    def forward(self, batch: Mapping[str, Tensor]) -> Any:
        """Run a batch (the names and shapes of `mmnas.batch`) and return the head's output.

        Images and captions belong together row by row, unless `pair_images` (P,) and `pair_captions` (P,) name
        the rows of P pairs: each image and caption then passes its stem and the encoder once.
        """
        return self.answer(self.token_stem(batch["tokens"]), batch)

    def compile(self, **options: Any) -> None:
        """Compile, in place, all that follows the LSTM, once for batches of all sizes.

        An LSTM would cut the compiled graph in two. Sizes that happen to be equal in the first batch ("duck
        shapes") must not be taken for one size, or each later batch where they differ would be compiled again.
        A size of 1 would be, too: such a batch runs as it is, uncompiled.
        """
        shapes.use_duck_shape = False
        plain, compiled = self.answer, torch.compile(self.answer, dynamic=True, **options)

        def answer(tokens: Tensor, batch: Mapping[str, Tensor]) -> Any:
            run = plain if 1 in (*tokens.shape, *batch["boxes"].shape) else compiled
            return run(tokens, batch)

        self.answer = answer  # type: ignore[method-assign]

    def answer(self, tokens: Tensor, batch: Mapping[str, Tensor]) -> Any:
        """Run all that follows the token stem's output (B, T, H) for a batch."""
        token_mask, region_mask, boxes = batch["token_mask"], batch["region_mask"], batch["boxes"]
        memory = self.backbone.encode(tokens, token_mask)  # (B, T, H)
        regions = self.region_stem(batch["features"], boxes, batch["image_sizes"])  # (B, N, H)
        relation = self.relate(boxes, region_mask)
        if "pair_images" in batch:
            images, captions = batch["pair_images"], batch["pair_captions"]
            regions, region_mask = regions.index_select(0, images), region_mask[images]
            relation = None if relation is None else Relation(relation.bias, images, relation.masked)
            memory, token_mask = memory.index_select(0, captions), token_mask[captions]
        regions = self.backbone.decode(regions, region_mask, Memory(memory, token_mask), relation)
        return self.head(memory, token_mask, regions, region_mask)

    @functools.cached_property
    def readers(self) -> list[RelationReader]:
        """What turns the relation into biases, in the order of the blocks."""
        return [module for module in self.backbone.decoder.modules() if isinstance(module, RelationReader)]

    def relate(self, boxes: Tensor, mask: Tensor) -> Relation | None:
        """Return the relation of boxes (B, N, 4) under mask (B, N); None if no block reads it."""
        if self.relation is None:
            return None
        embedding = self.relation(boxes, mask)  # (B, N, N, R)
        return Relation(lambda reader: reader(embedding))


def build_network(
    *,
    genotype: Genotype,
    head: nn.Module,
    sizes: Sizes,
    vocabulary_size: int,
    word_size: int,
    feature_size: int,
    box_size: int,
    word_vectors: np.ndarray | None = None,
) -> MMNasNet:
    """Build the network of a genotype around a task's head.

    `word_vectors` (vocabulary_size, word_size) initialize the embedding. Raises `ConfigError` when they do
    not fit, or an operation does not fit the hidden size.
    """
    network = MMNasNet(
        token_stem=TokenStem(vocabulary_size=vocabulary_size, word_size=word_size, hidden=sizes.hidden),
        region_stem=RegionStem(feature_size=feature_size, hidden=sizes.hidden, box_size=box_size),
        relation=RelationEmbedding(sizes.relation_size) if genotype.uses_relation else None,
        backbone=EncoderDecoder(build_blocks(genotype.encoder, sizes), build_blocks(genotype.decoder, sizes)),
        head=head,
    )
    if word_vectors is not None:
        embedding = network.token_stem.embedding.weight
        if word_vectors.shape != embedding.shape:
            raise ConfigError(
                f"word vectors are {word_vectors.shape}, the embedding is {tuple(embedding.shape)}; "
                "give vectors of the model's word size (model.word_size)"
            )
        embedding.data.copy_(torch.from_numpy(word_vectors))
    return network
