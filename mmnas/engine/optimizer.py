"""The optimizer of the weights, its learning rate, and its state in a checkpoint.

The rate is a function of the step alone, so that a resumed run cannot forget a decay.
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmnas.config import Config
from mmnas.errors import CheckpointError

# The rate climbs to its base in this many epochs: 1/4, 2/4, 3/4, then the whole.
WARMUP_EPOCHS = 3


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
    """Load the state that a checkpoint holds into an optimizer. Raises `CheckpointError` where it does not fit."""
    try:
        optimizer.load_state_dict(state)
        moments = ((p, each) for p, own in optimizer.state.items() for each in own.values())
        fits = all(not isinstance(each, Tensor) or each.shape in (p.shape, ()) for p, each in moments)
    except (ValueError, KeyError, TypeError, RuntimeError, IndexError, AttributeError):
        fits = False
    if not fits:
        raise CheckpointError(
            f"{path}: its optimizer does not fit this network; start from its weights by --CKPT_PATH alone"
        )
