"""The supernet of one-shot search (paper section 3.4): every block holds all its candidate operations.

Its weights are those of a plain network whose genotype rows list every candidate (`genotype.search_space`), so
that stems, encoder-decoder and heads are the tasks' own. A path names one candidate per block. What runs a path
is an ordinary network made on the spot from the shared operations; the supernet itself never changes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmnas.config import Config
from mmnas.genotype import Genotype, search_space
from mmnas.models.encoder_decoder import EncoderDecoder
from mmnas.models.network import MMNasNet
from mmnas.models.operations import Mask, Memory, ParallelOperations
from mmnas.models.relation import Relation

Path = Sequence[int]
"""The number of one candidate per block, encoder blocks first."""


def space_of(config: Config) -> Genotype:
    """Return the search space that a configuration describes: a genotype whose rows list all candidates."""
    search = config.search
    blocks = search.encoder_blocks, search.decoder_blocks
    return search_space(*blocks, search.encoder_candidates, search.decoder_candidates)


@dataclass(frozen=True)
class Gates:
    """Which candidates of one block run in an architecture step, and the binary gates that they pass.

    `values` (candidates,) is 1 at `active` and 0 elsewhere; its gradient tells how much the loss would change if
    a candidate were let in. Outputs of `inactive` candidates are computed without a graph.
    """

    values: Tensor
    active: int
    inactive: tuple[int, ...]


class MixedOp(nn.Module):
    """A block in an architecture step: the active candidate and the inactive ones, weighed by binary gates.

    As in ProxylessNAS. Interchangeable with a plain operation, and equal to its active candidate in value.
    """

    def __init__(self, candidates: Iterable[nn.Module], gates: Gates) -> None:
        super().__init__()
        self.candidates = nn.ModuleList(candidates)
        self.gates = gates

    def forward(self, x: Tensor, mask: Mask, memory: Memory | None, relation: Relation | None) -> Tensor:
        """Return (B, X, H), the gated sum of the candidates' outputs."""
        inputs = x, mask, memory, relation
        values = self.gates.values
        mixed = values[self.gates.active] * self.candidates[self.gates.active](*inputs)
        for index in self.gates.inactive:
            with torch.no_grad():
                output = self.candidates[index](*inputs)
            mixed = mixed + values[index] * output
        return mixed


class Supernet(nn.Module):
    """All candidates of all blocks around a task's stems and head.

    `network` is the task's network for the genotype `space`, whose rows list the candidates.
    """

    def __init__(self, network: MMNasNet, space: Genotype) -> None:
        super().__init__()
        self.weights = network
        self.space = space

    @property
    def blocks(self) -> list[ParallelOperations]:
        """The candidates of every block, encoder blocks first."""
        return [*self.weights.backbone.encoder, *self.weights.backbone.decoder]

    def network(self, path: Path) -> MMNasNet:
        """Return the network that runs the candidate of `path` in every block, on this supernet's weights."""
        taken = [ParallelOperations([block[index]]) for block, index in zip(self.blocks, path, strict=True)]
        return self._around(taken, self.space.take(path).uses_relation)

    def gated(self, gates: Sequence[Gates]) -> MMNasNet:
        """Return the network in which every block is a `MixedOp` behind its gates."""
        mixed = [MixedOp(block, gate) for block, gate in zip(self.blocks, gates, strict=True)]
        return self._around(mixed, self.space.uses_relation)

    def _around(self, blocks: Sequence[nn.Module], uses_relation: bool) -> MMNasNet:
        weights, cut = self.weights, len(self.space.encoder)
        relation = weights.relation if uses_relation else None
        backbone = EncoderDecoder(blocks[:cut], blocks[cut:])
        kind = type(weights)  # the plain network, or the one that is fast on a CPU
        network = kind(weights.token_stem, weights.region_stem, relation, backbone, weights.head)
        return network.train(weights.training)
