"""The form in which a trained model is given to others: a folder with `model.safetensors` and `config.json`.

The settings are the fields of a `Checkpoint`, but for what only training needs. The header of the weights holds the
SHA-256 of the settings, so that a hash of the weights' file stands for both.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import safe_open
from safetensors.torch import save_file

from mmnas.errors import CheckpointError
from mmnas.files import read_bytes, read_json, write_json

WEIGHTS, SETTINGS = "model.safetensors", "config.json"
_DIGEST = "config_sha256"
_LARGEST = 1 << 26  # bytes of settings; the words of all tasks are a hundredth of it
_LEFT_OUT = ("model", "optimizer", "task_state", "search", "step", "steps_per_epoch", "loss_sum")


def write_export(folder: Path, checkpoint: Mapping[str, Any]) -> None:
    """Write the fields of a checkpoint, and its format, into an existing folder."""
    settings = {name: value for name, value in checkpoint.items() if name not in _LEFT_OUT}
    write_json(folder / SETTINGS, settings, indent=1)
    save_file(checkpoint["model"], folder / WEIGHTS, {_DIGEST: _digest(folder)})
    (folder / WEIGHTS).chmod((folder / SETTINGS).stat().st_mode)  # which safetensors leaves to the owner alone


def read_export(folder: Path, file: BinaryIO) -> dict[str, Any]:
    """Return the fields of a checkpoint, not yet checked; `file` is the open `model.safetensors`.

    Raises `CheckpointError` when either file is missing or damaged, or they do not belong together.
    """
    path = folder / SETTINGS
    if not path.is_file() or path.stat().st_size > _LARGEST:
        raise CheckpointError(f"{path} is missing, or larger than settings can be; copy or export the model again")
    values = read_json(path, "settings of an exported model", CheckpointError, dict[str, Any])
    try:
        # Mapped, as those of a checkpoint; and from the open file, whatever its name stands for by now.
        with safe_open(f"/dev/fd/{file.fileno()}", "pt") as weights:
            digest = (weights.metadata() or {}).get(_DIGEST)
            values["model"] = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118, no dict
    except Exception as exception:  # safetensors and torch raise many kinds for damaged bytes
        raise CheckpointError(
            f"{folder / WEIGHTS} is damaged or truncated ({type(exception).__name__}); copy it again"
        ) from None
    if digest != _digest(folder):
        raise CheckpointError(f"{path} is not the one that {WEIGHTS} was exported with: copy or export both again")
    return values


def _digest(folder: Path) -> str:
    return hashlib.sha256(read_bytes(folder / SETTINGS)).hexdigest()
