"""Copying a checkpoint's weights into a network, once their names, shapes and numbers are known to fit."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from mmnas.engine.checkpoint import Checkpoint, PublishedWeights
from mmnas.engine.checkpoint_values import unusable
from mmnas.errors import CheckpointError
from mmnas.files import PathLike
from mmnas.models.published import from_published
from mmnas.schema import shown

Network = TypeVar("Network", bound=nn.Module)
Explain = Callable[[str, tuple[int, ...], tuple[int, ...]], str | None]
"""`explain(parameter, found, expected)`: why a weight's shape differs, in the words of the task; or None."""


def network_with(
    build: Callable[[], Network],
    source: Checkpoint | PublishedWeights,
    path: PathLike,
    explain: Explain,
    fresh: str | None = None,
) -> Network:
    """Build a network and copy a checkpoint's weights into it. Raises `CheckpointError` naming what does not fit.

    Shapes are compared on the meta device first, so that a file that claims absurd sizes takes no memory. The part
    of the network called `fresh` keeps its initial weights.
    """
    with torch.device("meta"):
        outline = build()
    state = _state_for(outline, source)
    new = {name for name in outline.state_dict() if fresh is not None and name.startswith(f"{fresh}.")}
    state = {name: value for name, value in state.items() if name not in new}
    _check_fit(outline, new, state, path, explain)
    network = build()
    network.load_state_dict({**{name: network.state_dict()[name] for name in new}, **state})
    return network


def _state_for(model: nn.Module, source: Checkpoint | PublishedWeights) -> dict[str, Tensor]:
    if isinstance(source, Checkpoint):
        return source.model
    return from_published(source.state, getattr(model, "relation", None) is not None)


def _check_fit(model: nn.Module, new: set[str], state: dict[str, Tensor], path: PathLike, explain: Explain) -> None:
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in new}
    missing = [name for name in shapes if name not in state]
    foreign = [name for name in state if name not in shapes]
    for name, shape in shapes.items():
        found = tuple(state[name].shape) if name in state else shape
        if found != shape:
            reason = explain(name, found, shape) or (
                f"{name} is {found}, the network's {shape}; is it of another --MODEL size?"
            )
            raise CheckpointError(f"{path} does not fit: {reason}")
    if missing or foreign:
        examples = f"lacks {missing[0]}" if missing else f"has {shown(foreign[0])}"
        raise CheckpointError(
            f"{path} does not fit this network: it {examples} ({len(missing)} missing, {len(foreign)} foreign "
            "parameters); is it of another task, or another --GENO_PATH?"
        )
    fault = unusable(state)
    if fault is not None:
        raise CheckpointError(f"{path}: {fault}; use another checkpoint")
