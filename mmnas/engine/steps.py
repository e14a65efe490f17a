"""The parts of an optimizer step, in training and in search: random streams, gradients, the move of the weights."""

import contextlib

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmnas.batch import Batch
from mmnas.config import Config
from mmnas.tasks.base import Task


def seed_step(*numbers: int) -> None:
    """Seed torch's random streams from the numbers: the run's seed, the rank, the step."""
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1)))


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """Return the context of a forward pass in the configured precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.training.precision == "bf16")


def add_gradients(task: Task, network: nn.Module, batch: Batch, device: torch.device) -> Tensor:
    """Add the gradients of a batch to the parameters', in parts where configured; return its loss."""
    losses = []
    count = min(task.config.training.accumulate, len(batch["index"]))
    batch = task.with_totals(batch)
    parts = [batch] if count == 1 else task.parts(batch, count)
    for number, part in enumerate(parts, start=1):
        alone = network.no_sync() if isinstance(network, DistributedDataParallel) and number < len(parts) else None
        with alone or contextlib.nullcontext():  # processes exchange gradients with the last part only
            with autocast(task.config, device):
                loss = task.loss(network, part)["total"]
            loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum().float()


def move_weights(model: nn.Module, optimizer: torch.optim.Optimizer, clip_norm: float, rate: float) -> Tensor:
    """Clip the gradients, take the optimizer's step at the learning rate, return the norm before clipping."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    for parameters in optimizer.param_groups:
        parameters["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm.float()
