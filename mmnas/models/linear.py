"""Linear layers and dropout for processors without a GPU beside them; elsewhere they are torch's own.

torch computes float32 products with MKL, which leaves half of the speed of AMD processors unused; oneDNN, which
torch also brings, does not. torch draws a dropout mask on one thread, one number per value. Figures:
docs/performance.md. Letters: I inputs, O outputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Values that a 16-bit draw takes, and the draws that one number of the generator gives.
_LEVELS, _DRAWS = 2**16, 4


class Linear(nn.Linear):
    """`torch.nn.Linear`, computed by oneDNN where that serves."""

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis from I to O."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias for weight (O, I) and bias (O,)."""
    if not _onednn_serves(x, weight):
        return F.linear(x, weight, bias)
    if x.dim() == 2:
        return _OneDNNLinear.apply(x, weight, bias)
    return _OneDNNLinear.apply(x.flatten(0, -2), weight, bias).view(*x.shape[:-1], -1)


def _onednn_serves(x: Tensor, weight: Tensor) -> bool:
    fits = x.dtype == weight.dtype == torch.float32 and x.dim() > 1 and x.numel() > 0
    onednn = torch.backends.mkldnn
    return fits and on_plain_cpu(x) and onednn.is_available() and bool(onednn.enabled)


def on_plain_cpu(x: Tensor) -> bool:
    """Whether x is computed on a CPU in its own precision, call by call: not under autocast, not compiled."""
    return x.is_cpu and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _OneDNNLinear(torch.autograd.Function):
    """`F.linear` of rows (rows, I) with every product, forward and backward, by oneDNN."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _product(gradient, weight.t()) if needs_x else None,
            _product(gradient.t(), x.t()) if needs_weight else None,
            gradient.sum(dim=0) if needs_bias else None,
        )


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, whose mask a CPU draws four at a time; the share is exact to 1 / 65536."""

    def forward(self, x: Tensor) -> Tensor:
        """Zero each value with probability p and scale the others by 1 / (1 - p), in training."""
        if self.training and 0 < self.p < 1 and on_plain_cpu(x):
            return _Dropped.apply(x, self.p)
        return super().forward(x)


class _Dropped(torch.autograd.Function):
    """Dropout with a mask of one byte a value, drawn 16 bits at a time."""

    @staticmethod
    def forward(ctx, x: Tensor, share: float) -> Tensor:
        level = min(round(share * _LEVELS), _LEVELS - 1)
        numbers = torch.empty(-(-x.numel() // _DRAWS), dtype=torch.int64).random_(-(2**63), None)
        draws = numbers.view(torch.int16)[: x.numel()].view(x.shape)  # uniform from -2**15 on
        kept = draws >= level - _LEVELS // 2
        ctx.save_for_backward(kept)
        ctx.scale = _LEVELS / (_LEVELS - level)
        return (x * kept).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return (gradient * kept).mul_(ctx.scale), None
