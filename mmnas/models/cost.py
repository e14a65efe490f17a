"""What operations cost: parameters, and multiply-adds of one sample's forward pass.

Parameters are those of the modules that `operations.py` builds, on the meta device. Multiply-adds are
worked out by formula and cover matrix products and convolutions, padding included; biases, activations,
softmax, layer norm and other element-wise work are left out.

Letters: X positions of the stream that the block works on, M positions of the memory, H hidden size, I inner
width of an attention, R relation size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mmnas.genotype import OPERATIONS, Genotype, OperationSpec
from mmnas.models.operations import build_operation


@dataclass(frozen=True)
class Cost:
    """Parameters, and multiply-adds of one sample; costs add up."""

    parameters: int = 0
    multiply_adds: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.parameters + other.parameters, self.multiply_adds + other.multiply_adds)


@dataclass(frozen=True)
class Sizes:
    """What an operation's cost depends on beside its name."""

    hidden: int
    relation_size: int
    head_scale: int
    positions: int
    memory: int = 0
    """Positions of the encoder's output; 0 in the encoder, where nothing reads it."""


def _attention(spec: OperationSpec, sizes: Sizes, sources: int) -> int:
    """Queries and merge at X positions, keys and values at `sources`, and the products of both."""
    inner = spec.inner_scale * sizes.hidden
    projections = 2 * (sizes.positions + sources) * sizes.hidden * inner
    return projections + 2 * sizes.positions * sources * inner


def _relation_linear(spec: OperationSpec, sizes: Sizes) -> int:
    """Linear(R -> heads) for every ordered pair of positions."""
    heads = spec.inner_scale * sizes.hidden // (spec.size * sizes.head_scale)
    return sizes.positions**2 * sizes.relation_size * heads


def _gated_linear(spec: OperationSpec, sizes: Sizes) -> int:
    """Depth 1: H -> 2H; depth 2: H -> 4H, gated to 2H, -> 2H; a unit's output is gated to half its width."""
    widths = [1, *(2**level for level in reversed(range(spec.size)))]
    units = sum(given * 2 * gated for given, gated in zip(widths, widths[1:], strict=False))
    return sizes.positions * units * sizes.hidden**2


# family -> multiply-adds
MULTIPLY_ADDS: dict[str, Callable[[OperationSpec, Sizes], int]] = {
    "none": lambda spec, sizes: 0,
    "skip_connect": lambda spec, sizes: 0,
    "gelu": lambda spec, sizes: 0,
    "self_att": lambda spec, sizes: _attention(spec, sizes, sizes.positions),
    "rel_self_att": lambda spec, sizes: _attention(spec, sizes, sizes.positions) + _relation_linear(spec, sizes),
    "guided_att": lambda spec, sizes: _attention(spec, sizes, sizes.memory),
    "uniimg_att": lambda spec, sizes: _attention(spec, sizes, sizes.positions + sizes.memory),
    "feed_forward": lambda spec, sizes: sizes.positions * 2 * spec.size * sizes.hidden**2,
    "feed_forward_deep": lambda spec, sizes: sizes.positions * (2 + 4 + 2) * sizes.hidden**2,
    "gated_linear": _gated_linear,
    "sep_conv": lambda spec, sizes: sizes.positions * (spec.size * sizes.hidden + sizes.hidden**2),
    "std_conv": lambda spec, sizes: sizes.positions * spec.size * sizes.hidden**2,
}


def operation_cost(name: str, sizes: Sizes) -> Cost:
    """Return what one operation costs. Raises `ConfigError` when it does not fit the hidden size."""
    with torch.device("meta"):  # shapes alone, no memory
        operation = build_operation(
            name,
            hidden=sizes.hidden,
            dropout=0.0,
            relation_size=sizes.relation_size,
            head_scale=sizes.head_scale,
        )
    parameters = sum(parameter.numel() for parameter in operation.parameters())
    spec = OPERATIONS[name]
    return Cost(parameters, MULTIPLY_ADDS[spec.family](spec, sizes))


def block_costs(rows: Sequence[Sequence[str]], sizes: Sizes) -> list[Cost]:
    """Return the cost of each block, the operations of its row together."""
    costs = {name: operation_cost(name, sizes) for row in rows for name in row}
    return [sum((costs[name] for name in row), Cost()) for row in rows]


def genotype_costs(
    genotype: Genotype, *, regions: int, tokens: int, hidden: int, relation_size: int, head_scale: int
) -> tuple[list[Cost], list[Cost]]:
    """Return the costs of all encoder blocks, over `tokens`, and of all decoder blocks, over `regions`."""
    encoder = Sizes(hidden, relation_size, head_scale, positions=tokens)
    decoder = Sizes(hidden, relation_size, head_scale, positions=regions, memory=tokens)
    return block_costs(genotype.encoder, encoder), block_costs(genotype.decoder, decoder)
