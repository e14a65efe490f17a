"""The operations that blocks are made of (paper section 3.1.2) and further candidates for search.

Every operation has one signature, `forward(x, x_mask, memory, memory_mask, relation)`, so that a plain
operation, several in parallel and a mixed operation are interchangeable:

    x (B, X, H)          the stream that the block works on
    x_mask (B, X)        true where valid
    memory (B, T, H)     the encoder's output; None in the encoder
    memory_mask (B, T)   true where valid; None in the encoder
    relation (B, X, X, R)  the relation embedding, or the terms made of it by `RelationEmbedding.terms`; None
                         where the genotype does not use it

Nearly all return `LayerNorm(x + Dropout(f(x)))`, (B, X, H).

What depends on the memory alone, or on the relation alone, is computed apart (`of_memory`, `of_relation`) from
the rest (`run`), so that retrieval does it once per caption or image.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmnas.errors import ConfigError
from mmnas.genotype import OPERATIONS, OperationSpec
from mmnas.models.layers import MLP, LayerNorm, MultiHeadAttention
from mmnas.models.linear import Dropout, Linear, on_plain_cpu

Mask = Tensor | None
"""True where valid; None where all is."""
KeysValues = tuple[Tensor, Tensor]
MemoryPart = KeysValues | None
Term = Tensor | None
Relation = Tensor | Mapping[nn.Module, Tensor] | None


class Operation(nn.Module):
    """The one signature. Subclasses give `run`, and the parts of it that they need."""

    reads_memory = False
    """Whether the output depends on the memory."""

    def forward(
        self,
        x: Tensor,
        x_mask: Mask,
        memory: Tensor | None = None,
        memory_mask: Mask = None,
        relation: Relation = None,
    ) -> Tensor:
        """Return (B, X, H)."""
        return self.run(x, x_mask, self.of_memory(memory), memory_mask, self.of_relation(relation))

    def of_memory(self, memory: Tensor | None) -> MemoryPart:
        """Return what the operation makes of the memory, rows first; None where it does not read it."""
        return None

    def of_relation(self, relation: Relation) -> Term:
        """Return what the operation makes of the relation, rows first; None where it does not read it."""
        return None

    def run(self, x: Tensor, x_mask: Mask, memory_part: MemoryPart, memory_mask: Mask, term: Term) -> Tensor:
        """Return (B, X, H) from x and what `of_memory` and `of_relation` gave."""
        raise NotImplementedError


class Zero(Operation):
    """`none`: nothing passes."""

    def run(self, x: Tensor, x_mask: Mask, memory_part: MemoryPart, memory_mask: Mask, term: Term) -> Tensor:
        """Return zeros that still stand in the graph."""
        return x * 0.0


class Identity(Operation):
    """`skip_connect`."""

    def run(self, x: Tensor, x_mask: Mask, memory_part: MemoryPart, memory_mask: Mask, term: Term) -> Tensor:
        """Return x."""
        return x


class GELU(Operation):
    """`gelu`: the activation alone."""

    def run(self, x: Tensor, x_mask: Mask, memory_part: MemoryPart, memory_mask: Mask, term: Term) -> Tensor:
        """Return gelu(x) in its tanh form, as published."""
        return F.gelu(x, approximate="tanh")


class Residual(Operation):
    """`LayerNorm(x + Dropout(f(x)))`; subclasses give f as `transform`."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.norm = LayerNorm(hidden)

    def run(self, x: Tensor, x_mask: Mask, memory_part: MemoryPart, memory_mask: Mask, term: Term) -> Tensor:
        """Return (B, X, H)."""
        return self.norm(x + self.dropout(self.transform(x, x_mask, memory_part, memory_mask, term)))

    def transform(self, x: Tensor, x_mask: Mask, memory_part: MemoryPart, memory_mask: Mask, term: Term) -> Tensor:
        """Compute f(x)."""
        raise NotImplementedError


class Attention(Residual):
    """SA, RSA, GA and the attention over both streams differ only in what x attends to."""

    def __init__(
        self, hidden: int, dropout: float, *, inner: int, head_width: int, relation_size: int | None = None
    ) -> None:
        super().__init__(hidden, dropout)
        self.attention = MultiHeadAttention(
            hidden=hidden, inner=inner, head_width=head_width, dropout=dropout, relation_size=relation_size
        )


class SelfAttention(Attention):
    """SA, and RSA when built with a relation size: x attends to x."""

    def of_relation(self, relation: Relation) -> Term:
        """Return what the relation adds to the logits, for RSA; `RelationEmbedding.terms` may have it ready."""
        reader = self.attention.relation
        if reader is None:
            return None
        return relation[reader] if isinstance(relation, Mapping) else self.attention.relation_term(relation)

    def transform(self, x: Tensor, x_mask: Mask, memory_part: MemoryPart, memory_mask: Mask, term: Term) -> Tensor:
        """Attend to the valid positions of x."""
        return self.attention.attend(x, *self.attention.keys_values(x), x_mask, term)


class GuidedAttention(Attention):
    """GA: x attends to the encoder's output. No position of x sees another: x may hold those of several images."""

    reads_memory = True

    def of_memory(self, memory: Tensor | None) -> KeysValues:
        """Return the memory's keys and values."""
        assert memory is not None
        return self.attention.keys_values(memory)

    def fold(self, memory_part: KeysValues) -> KeysValues:
        """Return keys and values for `run_folded`, which pays where many positions read one memory."""
        return self.attention.fold(*memory_part)

    def run_folded(self, x: Tensor, folded: KeysValues) -> Tensor:
        """Return what `run` does in evaluation where the whole memory is valid."""
        return self.norm(x + self.attention.attend_folded(x, *folded))

    def transform(self, x: Tensor, x_mask: Mask, memory_part: MemoryPart, memory_mask: Mask, term: Term) -> Tensor:
        """Attend to the valid positions of the memory."""
        assert memory_part is not None
        if on_plain_cpu(x) and self.attention.folding_pays(x.shape[1], memory_part[0].shape[2]):
            return self.attention.attend_folded(x, *self.fold(memory_part), memory_mask)
        return self.attention.attend(x, *memory_part, memory_mask, None)


class UnifiedAttention(Attention):
    """`uniimg_att`: x attends to x and the memory together, padding included, as published."""

    reads_memory = True

    def of_memory(self, memory: Tensor | None) -> KeysValues:
        """Return the memory's keys and values."""
        assert memory is not None
        return self.attention.keys_values(memory)

    def transform(self, x: Tensor, x_mask: Mask, memory_part: MemoryPart, memory_mask: Mask, term: Term) -> Tensor:
        """Attend to the concatenation (B, X + T, H)."""
        assert memory_part is not None
        pairs = zip(self.attention.keys_values(x), memory_part, strict=True)
        key, value = (torch.cat(pair, dim=2) for pair in pairs)
        return self.attention.attend(x, key, value, None, None)


class FeedForward(Residual):
    """FFN: H -> size * H -> H."""

    def __init__(self, hidden: int, dropout: float, *, expansion: int) -> None:
        super().__init__(hidden, dropout)
        self.mlp = MLP(size=hidden, inner=expansion * hidden, out=hidden, dropout=dropout)

    def transform(self, x: Tensor, x_mask: Mask, memory_part: MemoryPart, memory_mask: Mask, term: Term) -> Tensor:
        """Apply the MLP at every position."""
        return self.mlp(x)


class DeepFeedForward(Residual):
    """`feed_forward_deep`: H -> 2H -> 2H -> H."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__(hidden, dropout)
        self.first = Linear(hidden, 2 * hidden)
        self.mlp = MLP(size=2 * hidden, inner=2 * hidden, out=hidden, dropout=dropout)

    def transform(self, x: Tensor, x_mask: Mask, memory_part: MemoryPart, memory_mask: Mask, term: Term) -> Tensor:
        """Apply the three linears at every position."""
        return self.mlp(self.dropout(F.relu(self.first(x))))


class GatedLinear(Residual):
    """`gated_linear_<depth>`: GLUs whose widths halve down to H."""

    def __init__(self, hidden: int, dropout: float, *, depth: int) -> None:
        super().__init__(hidden, dropout)
        widths = [hidden, *(hidden * 2**level for level in reversed(range(depth)))]
        self.units = nn.ModuleList(Linear(a, 2 * b) for a, b in zip(widths, widths[1:], strict=False))

    def transform(self, x: Tensor, x_mask: Mask, memory_part: MemoryPart, memory_mask: Mask, term: Term) -> Tensor:
        """Apply the units in turn, ReLU and dropout between them."""
        for index, unit in enumerate(self.units):
            x = F.glu(unit(self.dropout(F.relu(x)) if index else x), dim=-1)
        return x


class Convolution(Residual):
    """`std_conv_<kernel>`, and `sep_conv_<kernel>` when separable: 1-D over the sequence, length kept."""

    def __init__(self, hidden: int, dropout: float, *, kernel: int, separable: bool) -> None:
        super().__init__(hidden, dropout)
        groups = hidden if separable else 1
        self.conv = nn.Conv1d(hidden, hidden, kernel, padding=kernel // 2, groups=groups)
        self.pointwise = nn.Conv1d(hidden, hidden, 1) if separable else None

    def transform(self, x: Tensor, x_mask: Mask, memory_part: MemoryPart, memory_mask: Mask, term: Term) -> Tensor:
        """Convolve along the positions."""
        y = self.conv(x.transpose(1, 2))  # (B, X, H) -> (B, H, X)
        if self.pointwise is not None:
            y = self.pointwise(y)
        return y.transpose(1, 2)


class ParallelOperations(nn.ModuleList):
    """The operations of one genotype row: their outputs add up."""

    def forward(
        self,
        x: Tensor,
        x_mask: Mask,
        memory: Tensor | None = None,
        memory_mask: Mask = None,
        relation: Relation = None,
    ) -> Tensor:
        """Return the sum, (B, X, H)."""
        return sum(operation(x, x_mask, memory, memory_mask, relation) for operation in self)


def _attention(kind: type[Attention], relational: bool = False) -> Callable[..., Operation]:
    def build(
        spec: OperationSpec, *, hidden: int, dropout: float, relation_size: int, head_scale: int
    ) -> Operation:
        return kind(
            hidden,
            dropout,
            inner=spec.inner_scale * hidden,
            head_width=spec.size * head_scale,
            relation_size=relation_size if relational else None,
        )

    return build


# family -> builder(spec, hidden, dropout, relation_size, head_scale)
FAMILIES: dict[str, Callable[..., Operation]] = {
    "none": lambda spec, **_: Zero(),
    "skip_connect": lambda spec, **_: Identity(),
    "gelu": lambda spec, **_: GELU(),
    "self_att": _attention(SelfAttention),
    "rel_self_att": _attention(SelfAttention, relational=True),
    "guided_att": _attention(GuidedAttention),
    "uniimg_att": _attention(UnifiedAttention),
    "feed_forward": lambda spec, hidden, dropout, **_: FeedForward(hidden, dropout, expansion=spec.size),
    "feed_forward_deep": lambda spec, hidden, dropout, **_: DeepFeedForward(hidden, dropout),
    "gated_linear": lambda spec, hidden, dropout, **_: GatedLinear(hidden, dropout, depth=spec.size),
    "sep_conv": lambda spec, hidden, dropout, **_: Convolution(hidden, dropout, kernel=spec.size, separable=True),
    "std_conv": lambda spec, hidden, dropout, **_: Convolution(hidden, dropout, kernel=spec.size, separable=False),
}


def build_operation(
    name: str, *, hidden: int, dropout: float, relation_size: int, head_scale: int = 1
) -> Operation:
    """Build the operation called `name`.

    Attention heads are as wide as the name's suffix times `head_scale`. Raises `ConfigError` when the
    hidden size is no multiple of that.
    """
    spec = OPERATIONS[name]
    try:
        return FAMILIES[spec.family](
            spec, hidden=hidden, dropout=dropout, relation_size=relation_size, head_scale=head_scale
        )
    except ValueError as exception:
        raise ConfigError(f"operation '{name}' does not fit hidden size {hidden}: {exception}") from None


def build_blocks(rows: Sequence[Sequence[str]], **sizes: Any) -> nn.ModuleList:
    """Build one `ParallelOperations` per genotype row; `sizes` as for `build_operation`."""
    return nn.ModuleList(ParallelOperations([build_operation(name, **sizes) for name in row]) for row in rows)
