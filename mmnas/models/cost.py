"""What operations cost: parameters, and multiply-adds of one sample's forward pass.

Operations are built and run on the meta device, where nothing is computed. Multiply-adds are half of the
floating-point operations that torch counts there: those of matrix products and convolutions, padding included;
biases, activations, softmax, layer norm and other element-wise work are not counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmnas.genotype import Genotype
from mmnas.models.operations import Memory, Sizes, build_operation
from mmnas.models.relation import Relation


@dataclass(frozen=True)
class Cost:
    """Parameters, and multiply-adds of one sample; costs add up."""

    parameters: int = 0
    multiply_adds: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.parameters + other.parameters, self.multiply_adds + other.multiply_adds)


def operation_cost(name: str, sizes: Sizes, positions: int, memory: int = 0) -> Cost:
    """Return what one operation costs on `positions`, with an encoder output of `memory` positions.

    Raises `ConfigError` if it does not fit the hidden size.
    """
    with torch.device("meta"):
        operation = build_operation(name, sizes).eval()
        x, states = torch.empty(1, positions, sizes.hidden), torch.empty(1, memory, sizes.hidden)
        embedding = torch.empty(1, positions, positions, sizes.relation_size)
    # Fused attention is not made of products that the counter knows; the plain form is.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        operation(x, None, Memory(states), Relation(lambda reader: reader(embedding)))
    parameters = sum(parameter.numel() for parameter in operation.parameters())
    return Cost(parameters, counter.get_total_flops() // 2)


def block_costs(rows: Sequence[Sequence[str]], sizes: Sizes, positions: int, memory: int = 0) -> list[Cost]:
    """Return the cost of each block, the operations of its row together."""
    costs = {name: operation_cost(name, sizes, positions, memory) for row in rows for name in row}
    return [sum((costs[name] for name in row), Cost()) for row in rows]


def genotype_costs(genotype: Genotype, sizes: Sizes, *, regions: int, tokens: int) -> tuple[list[Cost], list[Cost]]:
    """Return the costs of all encoder blocks, over `tokens`, and of all decoder blocks, over `regions`."""
    return block_costs(genotype.encoder, sizes, tokens), block_costs(genotype.decoder, sizes, regions, tokens)
