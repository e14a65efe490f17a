"""Scores of many pairs of images and captions, with each part of the network run as rarely as possible.

A caption passes the encoder once, in a batch of captions of its own length, and its keys and values are computed
once per guided attention. An image passes its stem, the relation and the decoder blocks before the first that reads
language once. The rest runs for each pair; there, a guided attention multiplies the regions of all images of a
caption by folded keys and values. Scores are those of the plain forward pass.

Letters: I images, N regions, C captions of one length, T tokens, J images per caption, P pairs, H hidden size,
h heads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from mmnas.models.folding import Folded, attend_folded, fold
from mmnas.models.heads import FusionHead
from mmnas.models.layers import MultiHeadAttention
from mmnas.models.network import MMNasNet
from mmnas.models.operations import GuidedAttention, Memory
from mmnas.models.relation import Relation, RelationReader

MEMORY_BUDGET = 2**27
"""Bytes that the pairs decoded at a time may take on a CPU, and likewise the captions held at a time."""
GPU_BUDGET, GPU_SHARE = 2**32, 16


def memory_budget(device: torch.device, on_cpu: int = MEMORY_BUDGET) -> int:
    """Return the bytes that work on `device` may take at a time: `on_cpu`, or a part of a GPU's memory.

    A GPU is busy only with many pairs at a time. The part is one of all its memory, not of what is free, so
    that scores are made of the same products whatever else the GPU holds.
    """
    if device.type != "cuda":
        return on_cpu
    return min(GPU_BUDGET, torch.cuda.get_device_properties(device).total_memory // GPU_SHARE)


@dataclass(frozen=True)
class ImageStates:
    """Images before language comes in: regions (I, N, H), their mask (I, N) or None where all are valid, and the
    relation biases (I, h, N, N) of the operations still to come.
    """

    regions: Tensor
    mask: Tensor | None
    biases: dict[RelationReader, Tensor]

    def __len__(self) -> int:
        return len(self.regions)

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for tensor in (self.regions, *self.biases.values()))


@dataclass(frozen=True)
class CaptionStates:
    """Captions: the encoder's output (C, T, H), the head's pooling of it (C, P), and what attentions made of it."""

    states: Tensor
    pooled: Tensor
    folded: dict[MultiHeadAttention, Folded]


class CaptionMemory(Memory):
    """The memory of chosen captions for `images` pairs each; every attention folds it once for all captions."""

    def __init__(self, captions: CaptionStates, chosen: slice, images: int) -> None:
        self.captions, self.chosen = captions, chosen
        super().__init__(captions.states[chosen].repeat_interleave(images, dim=0))  # (P, T, H)

    def attended(self, attention: MultiHeadAttention, x: Tensor) -> Tensor:
        """Let x (P, N, H) attend to the memory; no position of x sees another, so images are joined."""
        folded = self.captions.folded
        if attention not in folded:
            folded[attention] = fold(attention, self.captions.states)
        keys, values = (each[self.chosen] for each in folded[attention])  # (C, h * T, H)
        return attend_folded(attention, x.view(len(keys), -1, x.shape[-1]), (keys, values)).view_as(x)


class PairScorer:
    """Scores pairs with a network in evaluation mode whose head is a `FusionHead` of one output."""

    def __init__(self, network: MMNasNet, budget: int | None = None) -> None:
        self.network = network
        self.budget = budget or memory_budget(network.token_stem.embedding.weight.device)
        self.head = cast(FusionHead, network.head)
        blocks = network.backbone.decoder
        reading = [any(getattr(each, "reads", "") == "memory" for each in block.modules()) for block in blocks]
        first = (*reading, True).index(True)
        self.prefix, self.rest = blocks[:first], blocks[first:]

    def images(self, batch: dict[str, Tensor]) -> ImageStates:
        """Run the image side of a batch: features, boxes, image_sizes and region_mask, as everywhere."""
        network, mask, boxes = self.network, batch["region_mask"], batch["boxes"]
        regions = network.region_stem(batch["features"], boxes, batch["image_sizes"])  # (I, N, H)
        relation = network.relate(boxes, mask)
        valid = None if bool(mask.all()) else mask
        for block in self.prefix:
            regions = block(regions, valid, None, relation)
        readers = (module for module in self.rest.modules() if isinstance(module, RelationReader))
        biases = {} if relation is None else {reader: relation.bias(reader) for reader in readers}
        return ImageStates(regions, valid, biases)

    def captions(self, tokens: Tensor) -> CaptionStates:
        """Run the language side of captions of one length: token ids (C, T), all valid."""
        states = self.network.backbone.encode(self.network.token_stem(tokens), None)  # (C, T, H)
        pooled = self.head.language_pooling(states, torch.ones_like(tokens, dtype=torch.bool))
        return CaptionStates(states, pooled, {})

    def groups(self, lengths: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the indices of captions of equal length, as many at a time as the budget has room for."""
        guided = [module.attention for module in self.rest.modules() if isinstance(module, GuidedAttention)]
        token_bytes = 4 * 2 * sum(each.key.weight.numel() // each.head_width for each in guided)  # heads * H
        for length in np.unique(lengths):
            indices = np.flatnonzero(lengths == length)
            most = max(1, self.budget // max(1, int(length) * token_bytes))
            yield from (indices[start : start + most] for start in range(0, len(indices), most))

    def score(self, images: ImageStates, rows: Tensor, captions: CaptionStates) -> Tensor:
        """Return the logits (C, J), float32, of each caption with the images that its row (J,) names."""
        scores = torch.empty(rows.shape, device=rows.device)
        across = min(self.pairs_at_a_time(images), max(1, rows.shape[1]))
        down = max(1, self.pairs_at_a_time(images) // across)
        for top in range(0, rows.shape[0], down):
            for left in range(0, rows.shape[1], across):
                block = slice(top, top + down), slice(left, left + across)
                scores[block] = self._decode(images, rows[block], captions, block[0])
        return scores

    def pairs_at_a_time(self, images: ImageStates) -> int:
        """Return how many pairs the budget has room for: streams, projections, the widest inner layer, biases."""
        regions, hidden = images.regions.shape[1:]
        linears = (module for module in self.rest.modules() if isinstance(module, nn.Linear))
        widest = max((linear.out_features for linear in linears), default=hidden)
        heads = max((bias.shape[1] for bias in images.biases.values()), default=0)
        return max(1, self.budget // (4 * regions * (6 * hidden + 2 * widest + 2 * heads * regions)))

    def _decode(self, images: ImageStates, rows: Tensor, captions: CaptionStates, chosen: slice) -> Tensor:
        """Run the rest of the network for a block of pairs: image rows (C, J), the chosen captions."""
        indices = rows.flatten()  # (P,): all images of a caption, then those of the next
        x = images.regions.index_select(0, indices)  # (P, N, H)
        mask = None if images.mask is None else images.mask[indices]
        memory = CaptionMemory(captions, chosen, rows.shape[1])
        relation = Relation(images.biases.__getitem__, indices)
        for block in self.rest:
            x = block(x, mask, memory, relation)
        valid = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        pooled = self.head.region_pooling(x, valid)
        language = captions.pooled[chosen].repeat_interleave(rows.shape[1], dim=0)  # (P, pooled)
        return self.head.classify(language, pooled).view(rows.shape)
