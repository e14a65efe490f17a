"""Number formats: what a GPU computes float32 in, and the parts of a network that stay in it under autocast."""

import functools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

Result = TypeVar("Result")


def use_precision(precision: str) -> None:
    """Choose what a GPU computes float32 products in, for all operations alike: TF32 for `tf32`, else float32.

    torch's own choice is TF32 for LSTMs and convolutions and float32 for all else. cuDNN's attention, which some
    versions of torch prefer to their own, is switched off: it builds a plan per shape and may give NaN under masks.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.enable_cudnn_sdp(False)


def in_float32(method: Callable[..., Result]) -> Callable[..., Result]:
    """Make a module's method of tensors run in float32 under autocast; without autocast it stays as it is.

    For parts that cost little and need the precision: an LSTM, which autocast runs in float16 on a GPU, whatever
    type it is given; logarithms of small sums; scores, which would tie in bfloat16.
    """

    @functools.wraps(method)
    def run(module: nn.Module, *inputs: Tensor) -> Result:
        first = inputs[0]
        if first.is_meta or not torch.is_autocast_enabled(first.device.type):  # there is no autocast for meta
            return method(module, *inputs)
        with torch.autocast(first.device.type, enabled=False):
            return method(module, *(each.float() if each.is_floating_point() else each for each in inputs))

    return run
