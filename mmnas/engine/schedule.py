"""The learning rate as a function of the step alone, so that a resumed run cannot forget a decay."""

import math
from bisect import bisect_right
from collections.abc import Callable

from mmnas.config import Config

# The rate climbs to its base in this many epochs: 1/4, 2/4, 3/4, then the whole.
WARMUP_EPOCHS = 3


def warmup_decay(step: int, steps_per_epoch: int, base: float, decay_epochs: tuple[int, ...], rate: float) -> float:
    """Return the rate of optimiser step `step` (from 0): epoch-wise warm-up, times `rate` per decay."""
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
