"""Modules that are faster on a CPU than torch's own, and their installation in a built network.

torch computes float32 products with MKL, which leaves half of the speed of AMD processors unused; oneDNN, which
torch also includes, does not. torch draws a dropout mask on one thread, one number per value, and has no fused
attention with dropout for a CPU. Under autocast, and for other dtypes, the modules do what the plain ones do.
Figures: docs/performance.md. Letters: B batch, N regions, I inputs, O outputs, R relation size, h heads.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from mmnas.models.folding import attend_folded, fold, folding_pays
from mmnas.models.layers import MLP, MultiHeadAttention
from mmnas.models.network import MMNasNet
from mmnas.models.precision import in_float32
from mmnas.models.relation import Relation, join, log_bias

# Values that a 16-bit draw takes, and the draws that one number of the generator gives.
_LEVELS, _DRAWS = 2**16, 4
# Pairs of regions that are embedded at a time: (pairs, R) then stays in the caches.
PAIRS_AT_A_TIME = 20_000


def use_cpu_kernels(network: nn.Module) -> None:
    """Make a built network fast on a CPU, in place.

    Modules change their class alone: parameters, their names and the state dict stay as they are. A network
    that goes through `torch.compile` must stay plain.
    """
    for module in network.modules():
        module.__class__ = _KERNELS.get(type(module), type(module))


def _is_plain(x: Tensor) -> bool:
    """Whether x is computed in its own precision on a CPU."""
    return x.is_cpu and not torch.is_autocast_enabled("cpu")


class FastLinear(nn.Linear):
    """`torch.nn.Linear` by oneDNN."""

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis from I to O."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias for weight (O, I) and bias (O,), by oneDNN where it applies."""
    fits = x.dtype == weight.dtype == torch.float32 and x.dim() > 1 and x.numel() > 0
    onednn = torch.backends.mkldnn
    if not (fits and _is_plain(x) and onednn.is_available() and onednn.enabled):
        return F.linear(x, weight, bias)
    rows = x if x.dim() == 2 else x.flatten(0, -2)
    return _OneDNNLinear.apply(rows, weight, bias).view(*x.shape[:-1], -1)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _OneDNNLinear(torch.autograd.Function):
    """`F.linear` of rows (rows, I) with every product, forward and backward, by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _product(gradient, weight.t()) if needs_x else None,
            _product(gradient.t(), x.t()) if needs_weight else None,
            gradient.sum(dim=0) if needs_bias else None,
        )


class FastDropout(nn.Dropout):
    """`torch.nn.Dropout` with a mask drawn four values at a time; p is exact to 1 / 65536."""

    def forward(self, x: Tensor) -> Tensor:
        """Zero each value with probability p and scale the others by 1 / (1 - p), in training."""
        if self.training and 0 < self.p < 1 and _is_plain(x):
            return _Dropped.apply(x, self.p)
        return super().forward(x)


class _Dropped(torch.autograd.Function):
    """Dropout with a mask of one byte a value, drawn 16 bits at a time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        level = min(round(p * _LEVELS), _LEVELS - 1)
        numbers = torch.empty(-(-x.numel() // _DRAWS), dtype=torch.int64).random_(-(2**63), None)
        draws = numbers.view(torch.int16)[: x.numel()].view(x.shape)  # uniform from -2**15 on
        kept = draws >= level - _LEVELS // 2
        ctx.save_for_backward(kept)
        ctx.scale = _LEVELS / (_LEVELS - level)
        return (x * kept).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return (gradient * kept).mul_(ctx.scale), None


class FastMLP(MLP):
    """`MLP` with the ReLU in place, after the dropout, which only scales."""

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis from `size` to `out`."""
        rows = x.flatten(0, -2)  # a ReLU in place needs a tensor that is not a view of another
        hidden = F.relu(self.dropout(self.hidden(rows)), inplace=True)
        return self.output(hidden).view(*x.shape[:-1], -1)


class FastAttention(MultiHeadAttention):
    """`MultiHeadAttention`, folded where many queries meet few keys, and written out in training."""

    def forward(
        self, x: Tensor, source: Tensor, mask: Tensor | None = None, relation: Relation | None = None
    ) -> Tensor:
        """Let x (B, Q, H) attend to source (B, K, H) where mask (B, K) is true; return (B, Q, H)."""
        if relation is None and _is_plain(x) and folding_pays(self, x.shape[1], source.shape[1]):
            return attend_folded(self, x, fold(self, source), mask)
        return super().forward(x, source, mask, relation)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """Return softmax(query @ key.T / sqrt(w) + bias) @ value, (B, h, Q, w), dropout on the softmax."""
        if not self.training or not self.dropout.p or not _is_plain(query):
            return super().attend(query, key, value, bias)
        logits = (query * self.head_width**-0.5) @ key.transpose(2, 3)  # (B, h, Q, K)
        if bias is not None:
            logits += bias
        return self.dropout(logits.softmax(dim=-1)) @ value


class FastNetwork(MMNasNet):
    """`MMNasNet` that computes the relation biases of all its attentions together.

    One product serves all readers. The embedding (B, N, N, R) exists for a few samples at a time, and is
    recomputed for the backward pass.
    """

    @in_float32
    def relate(self, boxes: Tensor, mask: Tensor) -> Relation | None:
        """Return the relation of boxes (B, N, 4) under mask (B, N), with the biases of all readers."""
        embed = self.relation
        if embed is None:
            return None
        readers, (weight, bias) = self.readers, join(self.readers)

        def biases_of(boxes: Tensor, mask: Tensor) -> Tensor:
            return log_bias(linear(embed(boxes, mask), weight, bias))  # (b, heads of all, N, N)

        at_a_time = max(1, PAIRS_AT_A_TIME // mask.shape[1] ** 2)
        parts = [
            checkpoint(biases_of, *part, use_reentrant=False, preserve_rng_state=False)
            for part in zip(boxes.split(at_a_time), mask.split(at_a_time), strict=True)
        ]
        biases = torch.cat(parts).split([each.out_features for each in readers], dim=1)
        return Relation(dict(zip(readers, biases, strict=True)).__getitem__)


_FAST: tuple[type[nn.Module], ...] = (FastLinear, FastDropout, FastMLP, FastAttention, FastNetwork)
_KERNELS = {kernel.__bases__[0]: kernel for kernel in _FAST}
