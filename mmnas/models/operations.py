"""The operations that blocks are made of (paper section 3.1.2) and further candidates for search.

Every operation has one signature, `forward(x, mask, memory, relation)`, so that a plain operation, several in
parallel and a mixed operation are interchangeable:

    x (B, X, H)     the stream that the block works on
    mask (B, X)     true where valid; None where everything is
    memory          the encoder's output, a `Memory` of T positions; None in the encoder
    relation        the relation of the regions, a `Relation`; None where the genotype does not use it

Nearly all return `LayerNorm(x + Dropout(f(x)))`, (B, X, H). A new operation is a class here, its entry in
`FAMILIES`, and the row of its name in `genotype.OPERATIONS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmnas.errors import ConfigError
from mmnas.genotype import OPERATIONS, OperationSpec
from mmnas.models.layers import MLP, LayerNorm, MultiHeadAttention
from mmnas.models.relation import Relation

Mask = Tensor | None


@dataclass(frozen=True)
class Sizes:
    """What the operations of a network have in common; heads are as wide as a name's suffix times `head_scale`."""

    hidden: int
    relation_size: int
    head_scale: int = 1
    dropout: float = 0.0


class Memory:
    """The encoder's output as operations see it: states (B, T, H), valid where mask (B, T) is true."""

    def __init__(self, states: Tensor, mask: Mask = None) -> None:
        self.states, self.mask = states, mask

    def attended(self, attention: MultiHeadAttention, x: Tensor) -> Tensor:
        """Let x (B, X, H) attend to the memory; (B, X, H)."""
        return attention(x, self.states, self.mask)


class Operation(nn.Module):
    """What all operations have in common: the signature, and what they read beside x."""

    def __init__(self, spec: OperationSpec, sizes: Sizes) -> None:
        super().__init__()
        self.reads = spec.reads

    def forward(self, x: Tensor, mask: Mask, memory: Memory | None, relation: Relation | None) -> Tensor:
        """Return (B, X, H)."""
        raise NotImplementedError


class Zero(Operation):
    """`none`: nothing passes."""

    def forward(self, x: Tensor, mask: Mask, memory: Memory | None, relation: Relation | None) -> Tensor:
        """Return zeros that are still part of the graph."""
        return x * 0.0


class Identity(Operation):
    """`skip_connect`."""

    def forward(self, x: Tensor, mask: Mask, memory: Memory | None, relation: Relation | None) -> Tensor:
        """Return x."""
        return x


class GELU(Operation):
    """`gelu`: the activation alone."""

    def forward(self, x: Tensor, mask: Mask, memory: Memory | None, relation: Relation | None) -> Tensor:
        """Return gelu(x) in its tanh form, as published."""
        return F.gelu(x, approximate="tanh")


class Residual(Operation):
    """`LayerNorm(x + Dropout(f(x)))`; subclasses define f."""

    def __init__(self, spec: OperationSpec, sizes: Sizes) -> None:
        super().__init__(spec, sizes)
        self.dropout = nn.Dropout(sizes.dropout)
        self.norm = LayerNorm(sizes.hidden)

    def forward(self, x: Tensor, mask: Mask, memory: Memory | None, relation: Relation | None) -> Tensor:
        """Return (B, X, H)."""
        return self.norm(x + self.dropout(self.f(x, mask, memory, relation)))

    def f(self, x: Tensor, mask: Mask, memory: Memory | None, relation: Relation | None) -> Tensor:
        """Compute f(x), (B, X, H)."""
        raise NotImplementedError


class SelfAttention(Residual):
    """SA: x attends to x."""

    def __init__(self, spec: OperationSpec, sizes: Sizes) -> None:
        super().__init__(spec, sizes)
        inner, head_width = spec.inner_scale * sizes.hidden, spec.size * sizes.head_scale
        relation_size = sizes.relation_size if spec.reads == "relation" else 0
        self.attention = MultiHeadAttention(sizes.hidden, inner, head_width, sizes.dropout, relation_size)

    def f(self, x: Tensor, mask: Mask, memory: Memory | None, relation: Relation | None) -> Tensor:
        """Attend to the valid positions of x."""
        return self.attention(x, x, mask)


class RelationalSelfAttention(SelfAttention):
    """RSA: x attends to x, and the relation adds to the logits."""

    def f(self, x: Tensor, mask: Mask, memory: Memory | None, relation: Relation | None) -> Tensor:
        """Attend to the valid positions of x by content and relation."""
        assert relation is not None
        return self.attention(x, x, mask, relation)


class GuidedAttention(SelfAttention):
    """GA: x attends to the encoder's output."""

    def f(self, x: Tensor, mask: Mask, memory: Memory | None, relation: Relation | None) -> Tensor:
        """Attend to the valid positions of the memory."""
        assert memory is not None
        return memory.attended(self.attention, x)


class UnifiedAttention(SelfAttention):
    """`uniimg_att`: x attends to x and the memory together, padding included, as published."""

    def f(self, x: Tensor, mask: Mask, memory: Memory | None, relation: Relation | None) -> Tensor:
        """Attend to the concatenation (B, X + T, H)."""
        assert memory is not None
        return self.attention(x, torch.cat([x, memory.states], dim=1))


class FeedForward(Residual):
    """FFN: H -> size * H -> H."""

    def __init__(self, spec: OperationSpec, sizes: Sizes) -> None:
        super().__init__(spec, sizes)
        self.mlp = MLP(sizes.hidden, spec.size * sizes.hidden, sizes.hidden, sizes.dropout)

    def f(self, x: Tensor, mask: Mask, memory: Memory | None, relation: Relation | None) -> Tensor:
        """Apply the MLP at every position."""
        return self.mlp(x)


class DeepFeedForward(Residual):
    """`feed_forward_deep`: H -> 2H -> 2H -> H."""

    def __init__(self, spec: OperationSpec, sizes: Sizes) -> None:
        super().__init__(spec, sizes)
        inner = spec.size * sizes.hidden
        self.first = nn.Linear(sizes.hidden, inner)
        self.mlp = MLP(inner, inner, sizes.hidden, sizes.dropout)

    def f(self, x: Tensor, mask: Mask, memory: Memory | None, relation: Relation | None) -> Tensor:
        """Apply the three linears at every position."""
        return self.mlp(self.dropout(F.relu(self.first(x))))


class GatedLinear(Residual):
    """`gated_linear_<depth>`: GLUs whose widths halve down to H."""

    def __init__(self, spec: OperationSpec, sizes: Sizes) -> None:
        super().__init__(spec, sizes)
        widths = [1, *(2**level for level in reversed(range(spec.size)))]
        pairs = zip(widths, widths[1:], strict=False)
        self.units = nn.ModuleList(nn.Linear(a * sizes.hidden, 2 * b * sizes.hidden) for a, b in pairs)

    def f(self, x: Tensor, mask: Mask, memory: Memory | None, relation: Relation | None) -> Tensor:
        """Apply the units in turn, ReLU and dropout between them."""
        for index, unit in enumerate(self.units):
            x = F.glu(unit(self.dropout(F.relu(x)) if index else x), dim=-1)
        return x


class Convolution(Residual):
    """`std_conv_<kernel>`: 1-D over the sequence, length kept."""

    def __init__(self, spec: OperationSpec, sizes: Sizes, groups: int = 1) -> None:
        super().__init__(spec, sizes)
        self.conv = nn.Conv1d(sizes.hidden, sizes.hidden, spec.size, padding=spec.size // 2, groups=groups)

    def f(self, x: Tensor, mask: Mask, memory: Memory | None, relation: Relation | None) -> Tensor:
        """Convolve along the positions."""
        return self.conv(x.transpose(1, 2)).transpose(1, 2)  # (B, X, H) -> (B, H, X) -> (B, X, H)


class SeparableConvolution(Convolution):
    """`sep_conv_<kernel>`: a convolution per feature, then a linear at every position."""

    def __init__(self, spec: OperationSpec, sizes: Sizes) -> None:
        super().__init__(spec, sizes, groups=sizes.hidden)
        self.pointwise = nn.Conv1d(sizes.hidden, sizes.hidden, 1)

    def f(self, x: Tensor, mask: Mask, memory: Memory | None, relation: Relation | None) -> Tensor:
        """Convolve along the positions, then mix the features."""
        return self.pointwise(self.conv(x.transpose(1, 2))).transpose(1, 2)  # as in `Convolution`


class ParallelOperations(nn.ModuleList):
    """The operations of one genotype row: their outputs add up."""

    def forward(self, x: Tensor, mask: Mask, memory: Memory | None, relation: Relation | None) -> Tensor:
        """Return the sum, (B, X, H)."""
        first, *rest = (operation(x, mask, memory, relation) for operation in self)
        return sum(rest, start=first)


# family -> class
FAMILIES: dict[str, type[Operation]] = {
    "none": Zero,
    "skip_connect": Identity,
    "gelu": GELU,
    "self_att": SelfAttention,
    "rel_self_att": RelationalSelfAttention,
    "guided_att": GuidedAttention,
    "uniimg_att": UnifiedAttention,
    "feed_forward": FeedForward,
    "feed_forward_deep": DeepFeedForward,
    "gated_linear": GatedLinear,
    "sep_conv": SeparableConvolution,
    "std_conv": Convolution,
}


def build_operation(name: str, sizes: Sizes) -> Operation:
    """Build an operation. Raises `ConfigError` if its heads do not fit the hidden size."""
    spec = OPERATIONS[name]
    try:
        return FAMILIES[spec.family](spec, sizes)
    except ValueError as exception:
        raise ConfigError(f"operation '{name}' does not fit hidden size {sizes.hidden}: {exception}") from None


def build_blocks(rows: Sequence[Sequence[str]], sizes: Sizes) -> nn.ModuleList:
    """Build one `ParallelOperations` per genotype row."""
    return nn.ModuleList(ParallelOperations([build_operation(name, sizes) for name in row]) for row in rows)
