"""Scores of many pairs of images and captions, each part of the network run as seldom as it can be.

A caption passes the encoder once, in a batch of captions of its own length, and every guided attention makes
its keys and values once. An image passes its stem, the relation terms and the decoder blocks before the first
that reads language once. What is left is run for each pair; a guided attention there multiplies the regions of all
images of a caption by keys and values that hold its query and merge already. Scores are those of the plain forward.

Letters: I images, N regions, C captions of one length, T tokens, J images per caption, P pairs, H hidden size,
h heads.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from mmnas.models.heads import FusionHead
from mmnas.models.network import MMNasNet
from mmnas.models.operations import Attention, GuidedAttention, MemoryPart, Operation

MEMORY_BUDGET = 2**27
"""Bytes that the pairs decoded at a time may take, and likewise the captions held at a time."""


@dataclass(frozen=True)
class ImageStates:
    """What is left of images before language comes in: regions (I, N, H), their mask (I, N) or None where all
    are valid, and for each operation still to come its relation term (I, h, N, N) or None.
    """

    regions: Tensor
    mask: Tensor | None
    terms: list[list[Tensor | None]]

    def __len__(self) -> int:
        return len(self.regions)

    @property
    def size(self) -> int:
        """Bytes held."""
        tensors = [self.regions, *(term for row in self.terms for term in row if term is not None)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass(frozen=True)
class CaptionStates:
    """What pairs need of captions: the head's pooling (C, P), and each operation's keys and values or None."""

    pooled: Tensor
    memories: list[list[MemoryPart]]

    def __len__(self) -> int:
        return len(self.pooled)


class PairScorer:
    """Scores pairs with a network in evaluation mode whose head is a `FusionHead` of one output."""

    def __init__(self, network: MMNasNet, budget: int = MEMORY_BUDGET) -> None:
        self.network = network
        self.head = cast(FusionHead, network.head)
        self.budget = budget
        rows = [list(block) for block in cast(Iterable[Iterable[Operation]], network.backbone.decoder)]
        readers = [place for place, row in enumerate(rows) if any(each.reads_memory for each in row)]
        first = readers[0] if readers else len(rows)
        self.prefix, self.rest = network.backbone.decoder[:first], rows[first:]

    def images(self, batch: dict[str, Tensor]) -> ImageStates:
        """Run the image side of a batch: features, boxes, image_sizes and region_mask, as everywhere."""
        network, mask, boxes = self.network, batch["region_mask"], batch["boxes"]
        regions = network.region_stem(batch["features"], boxes, batch["image_sizes"])  # (I, N, H)
        relation = None if network.relation is None else network.relation(boxes, mask)
        valid = None if bool(mask.all()) else mask
        for block in self.prefix:
            regions = block(regions, valid, None, None, relation)
        return ImageStates(regions, valid, [[each.of_relation(relation) for each in row] for row in self.rest])

    def captions(self, tokens: Tensor) -> CaptionStates:
        """Run the language side of captions of one length: token ids (C, T), all valid."""
        memory = self.network.backbone.encode(self.network.token_stem(tokens), None)  # (C, T, H)
        pooled = self.head.language_pooling(memory, torch.ones_like(tokens, dtype=torch.bool))
        return CaptionStates(pooled, [[_of_memory(each, memory) for each in row] for row in self.rest])

    def groups(self, lengths: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the places of captions of equal length, as many at a time as the budget has room for."""
        readers = [each for row in self.rest for each in row if isinstance(each, Attention) and each.reads_memory]
        attentions = [each.attention for each in readers]
        sizes = (each.key.weight.numel() // each.head_width for each in attentions)  # heads * H, as folded
        token_bytes = 4 * 2 * sum(sizes)
        for length in np.unique(lengths):
            places = np.flatnonzero(lengths == length)
            most = max(1, self.budget // max(1, int(length) * token_bytes))
            yield from (places[start : start + most] for start in range(0, len(places), most))

    def matrix(self, images: ImageStates, captions: CaptionStates) -> Tensor:
        """Return the logits (I, C) of all pairs, float32."""
        rows = torch.arange(len(images), device=images.regions.device).expand(len(captions), -1)
        return self.score(images, rows, captions).T

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
        """Return how many pairs the budget has room for: streams, projections, the widest inner layer, terms."""
        regions, hidden = images.regions.shape[1:]
        modules = (module for row in self.rest for each in row for module in each.modules())
        linears = [module for module in modules if isinstance(module, nn.Linear)]
        widest = max((linear.out_features for linear in linears), default=hidden)
        terms = max((term.shape[1] for row in images.terms for term in row if term is not None), default=0)
        return max(1, self.budget // (4 * regions * (6 * hidden + 2 * widest + 2 * terms * regions)))

    def _decode(self, images: ImageStates, rows: Tensor, captions: CaptionStates, chosen: slice) -> Tensor:
        """Run what is left of the network for a block of pairs: image rows (C, J), the chosen captions."""
        places = rows.flatten()  # (P,): all images of a caption, then those of the next
        x = images.regions.index_select(0, places)  # (P, N, H)
        mask = None if images.mask is None else images.mask[places]
        for row, terms, memories in zip(self.rest, images.terms, captions.memories, strict=True):
            outputs = (
                _run(operation, x, mask, places, term, _chosen(memory, chosen))
                for operation, term, memory in zip(row, terms, memories, strict=True)
            )
            x = cast(Tensor, sum(outputs))
        valid = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        pooled = self.head.region_pooling(x, valid).float()
        language = captions.pooled[chosen].float().repeat_interleave(rows.shape[1], dim=0)  # (P, pooled)
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would make ties of near scores
            return self.head.classify(language, pooled).view(rows.shape)


def _of_memory(operation: Operation, memory: Tensor) -> MemoryPart:
    if isinstance(operation, GuidedAttention):
        return operation.fold(operation.of_memory(memory))
    return operation.of_memory(memory)


def _chosen(memory: MemoryPart, chosen: slice) -> MemoryPart:
    return None if memory is None else (memory[0][chosen], memory[1][chosen])


def _run(
    operation: Operation,
    x: Tensor,
    mask: Tensor | None,
    places: Tensor,
    term: Tensor | None,
    memory: MemoryPart,
) -> Tensor:
    """Run one operation on pairs x (P, N, H), with the relation terms of all images and keys and values of C."""
    if memory is not None and isinstance(operation, GuidedAttention):
        joined = x.view(len(memory[0]), -1, x.shape[-1])  # (C, J * N, H): a caption's images are one sequence to it
        return operation.run_folded(joined, memory).view_as(x)
    if memory is not None:
        keys, values = (part.repeat_interleave(len(x) // len(part), dim=0) for part in memory)
        memory = keys, values
    return operation.run(x, mask, memory, None, None if term is None else term.index_select(0, places))
