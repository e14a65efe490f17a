"""A fingerprint of data sets, by which a resumed run notices that its data has changed."""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from torch.utils.data import Dataset

from mmnas.data.ragged import Ragged
from mmnas.data.samples import SizedDataset
from mmnas.engine.checkpoint import Checkpoint
from mmnas.errors import CheckpointError

log = logging.getLogger(__name__)


def fingerprint(*datasets: SizedDataset) -> str:
    """Return the number of samples and a hash of their ids, texts and labels in order, not of features."""
    content = msgspec.msgpack.encode(datasets, enc_hook=_plain)
    return f"{sum(map(len, datasets))} samples, sha256 {hashlib.sha256(content).hexdigest()[:16]}"


def require_same(now: Mapping[str, Any], checkpoint: Checkpoint, path: Path) -> None:
    """Warn when data or processes differ from those of a checkpoint.

    Raises `CheckpointError` when the checkpoint is within an epoch, which only the same can finish, and for region
    features of another detector or other settings, which never mix in a run.
    """
    held = {**checkpoint.data, "processes": checkpoint.processes, "steps per epoch": checkpoint.steps_per_epoch}
    names = [name for name in now if name in held and held[name] != now[name]]  # earlier releases noted less
    if "features" in names:
        raise CheckpointError(
            f"{path} was trained on features of {held['features']}, but these are of {now['features']}: name the "
            "former by --FEAT_PATH, or start a new run from it by --CKPT_PATH without --RESUME"
        )
    changes = ", ".join(f"{name} ({held[name]}; now {now[name]})" for name in names)
    if checkpoint.step and {*names} - {"val"}:
        raise CheckpointError(
            f"{path} stopped within an epoch with other {changes}: use the same data and as many devices, or a "
            "checkpoint of a whole epoch by --CKPT_PATH"
        )
    if names:
        log.warning("%s was made with other %s: figures before and after it do not compare", path, changes)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [value.dtype.str, value.shape, value.tobytes()]
    if isinstance(value, (Dataset, Ragged)):
        return {name: part for name, part in vars(value).items() if name != "regions"}
    return repr(value) if isinstance(value, (range, slice)) else None  # not the negatives: they change in training
