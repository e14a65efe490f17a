"""The parts of a network that stay in float32 under autocast."""

import functools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

Result = TypeVar("Result")


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
