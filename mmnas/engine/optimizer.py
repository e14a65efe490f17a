"""The optimizer of the weights, its learning rate, and its state in a checkpoint.

The rate is a function of the step alone, so that a resumed run cannot forget a decay.
"""

import itertools
import math
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct
from torch import Tensor, nn

from mmnas.config import Config
from mmnas.errors import CheckpointError
from mmnas.schema import convert, shown

# The rate climbs to its base in this many epochs: 1/4, 2/4, 3/4, then the whole.
WARMUP_EPOCHS = 3
# What an optimizer remembers of every parameter that it has moved.
MOMENTS: dict[type, set[str]] = {
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.SGD: {"momentum_buffer"},
}
NEVER_NEGATIVE = ("step", "exp_avg_sq")
# Settings of how a step is carried out; the rate is set before every step.
FREE = {"lr", "foreach", "fused", "capturable", "differentiable"}


class _State(Struct):
    """The form of an optimizer's state in a checkpoint."""

    state: dict[int, dict[str, Tensor]]
    param_groups: list[dict[str, float | bool | str | None | list[float]]]


def warmup_decay(step: int, steps_per_epoch: int, base: float, decay_epochs: tuple[int, ...], rate: float) -> float:
    """Return the rate of optimizer step `step` (from 0): epoch-wise warm-up, times `rate` per decay."""
    epoch = step // steps_per_epoch
    warm = base * min(epoch + 1, WARMUP_EPOCHS + 1) / (WARMUP_EPOCHS + 1)
    return warm * rate ** bisect_right(sorted(decay_epochs), epoch)


def cosine(step: int, steps_per_epoch: int, base: float, epochs: int) -> float:
    """Return the rate of step `step`: half a cosine, epoch-wise, that reaches zero after the last epoch."""
    return base / 2 * (1 + math.cos(math.pi * (step // steps_per_epoch) / epochs))


def schedule_of(config: Config, steps_per_epoch: int) -> Callable[[int], float]:
    """Return the configuration's learning rate as a function of the step."""
    training = config.training
    if training.optimizer == "sgd":
        return lambda step: cosine(step, steps_per_epoch, config.base_lr, training.epochs)
    return lambda step: warmup_decay(
        step, steps_per_epoch, config.base_lr, training.decay_epochs, training.decay_rate
    )


def optimizer_of(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """Return Adam, fused, or SGD with momentum, as the configuration has it."""
    training = config.training
    if training.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=config.base_lr, momentum=training.momentum)
    return torch.optim.Adam(
        model.parameters(), lr=config.base_lr, betas=training.betas, eps=training.eps, fused=True
    )


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], path: Path) -> None:
    """Copy the moments that a checkpoint holds into an optimizer. Raises `CheckpointError` where they do not fit.

    The settings stay those of the configuration; a checkpoint that holds others is refused.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    try:
        own, held = (convert(each, _State, error=CheckpointError) for each in (optimizer.state_dict(), state))
        for group, other in itertools.zip_longest(own.param_groups, held.param_groups, fillvalue=dict[str, Any]()):
            for name in ("params", *other.keys() & group.keys() - FREE):
                if other.get(name) != group.get(name):
                    raise CheckpointError(f"its {name} is {shown(other.get(name))}, not {shown(group.get(name))}")
        for index, moments in held.state.items():
            if index not in range(len(parameters)):
                raise CheckpointError(f"no parameter {shown(index)}")
            _restore_moments(optimizer, parameters[index], moments)
    except CheckpointError as exception:
        raise CheckpointError(
            f"{path}: its optimizer does not fit this network ({exception}); start from its weights by --CKPT_PATH "
            "alone"
        ) from None


def _restore_moments(optimizer: torch.optim.Optimizer, parameter: Tensor, moments: dict[str, Tensor]) -> None:
    """Copy what fits in shape, type and range: a fused optimizer trusts the memory that it is given."""
    if moments.keys() != MOMENTS[type(optimizer)]:
        raise CheckpointError(f"it holds {shown(list(moments))} of a parameter")
    for name, value in moments.items():
        shape = () if name == "step" else parameter.shape
        if value.shape != shape or value.dtype != parameter.dtype:
            raise CheckpointError(f"{name} has another shape or type than its parameter")
        if not value.isfinite().all() or (name in NEVER_NEGATIVE and (value < 0).any()):
            raise CheckpointError(f"{name} holds values that it cannot have")
        optimizer.state[parameter][name] = torch.empty_like(value, device=parameter.device).copy_(value)
