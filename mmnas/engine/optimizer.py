"""The optimiser of the weights, and how one takes up the state that a checkpoint holds."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmnas.config import Config
from mmnas.errors import CheckpointError


def optimizer_of(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """Return Adam, fused, or SGD with momentum, as the configuration has it."""
    training = config.training
    if training.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=config.base_lr, momentum=training.momentum)
    return torch.optim.Adam(
        model.parameters(), lr=config.base_lr, betas=training.betas, eps=training.eps, fused=True
    )


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], path: Path) -> None:
    """Give an optimiser the state that a checkpoint holds. Raises `CheckpointError` where it does not fit."""
    try:
        optimizer.load_state_dict(state)
        moments = ((p, each) for p, own in optimizer.state.items() for each in own.values())
        fits = all(not isinstance(each, Tensor) or each.shape in (p.shape, ()) for p, each in moments)
    except (ValueError, KeyError, TypeError, RuntimeError, IndexError, AttributeError):
        fits = False
    if not fits:
        raise CheckpointError(
            f"{path}: its optimiser does not fit this network; start from its weights by --CKPT_PATH alone"
        )
