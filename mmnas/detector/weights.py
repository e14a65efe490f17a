"""The detector's weights: read from any published file, checked, and written as one `.safetensors`.

A file's layout is told from its content. No layout can run code: `.pth` and `.bin` go through torch's loader of
plain types, pickles through an unpickler that knows arrays only, and the others hold nothing but numbers.
"""

import hashlib
import math
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from mmnas.data.pickles import read_plain_pickle
from mmnas.detector.array_pickles import ARRAY_CLASSES, PickledArray
from mmnas.detector.caffemodel import read_layers
from mmnas.detector.layouts import ANCHORS, from_airsplay, from_caffe, is_airsplay
from mmnas.detector.network import weight_shapes
from mmnas.detector.regions import cell_anchors
from mmnas.errors import DataError
from mmnas.files import PathLike, replacing

_DIGEST = "mmnas_detector"  # the one key of the header: with two, their order would vary
_LARGEST_FILE = 4 * 2**30
_ZIP, _OLD_TORCH, _PICKLE = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19", b"\x80"
_SMALLEST_ANCHOR = 64  # the largest anchor's side is 16 times that of the published model's smallest
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class DetectorWeights:
    """Weights by name, float32, batch norms not folded; anchors (12, 4) of one cell; the digest of all of it."""

    tensors: dict[str, Tensor]
    anchors: Tensor
    digest: str


def read_weights(path: PathLike) -> DetectorWeights:
    """Read the detector's weights in any published layout.

    Raises DataError when the file is missing or damaged, or holds another network.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"detector not found: {path}; docs/data.md lists its published files")
    if path.stat().st_size > _LARGEST_FILE:
        raise DataError(f"{path} has {path.stat().st_size} bytes, far more than the detector; name another file")
    with open(path, "rb") as file:
        read = _reader(file.read(16))
    try:
        found, digest = read(path)
        weights = _checked(found)
    except DataError:
        raise
    except ValueError as exception:
        raise DataError(f"{path} is not a usable detector: {exception}") from None
    except Exception as exception:  # torch and others raise many kinds for damaged bytes
        kind = type(exception).__name__
        raise DataError(f"{path} is not a detector, or truncated ({kind}); copy it again") from None
    if digest not in (None, weights.digest):
        raise DataError(f"{path} is damaged: its weights do not have the digest in its header; convert it again")
    return weights


def write_weights(path: PathLike, weights: DetectorWeights) -> None:
    """Write weights as `.safetensors`, with the anchors, and the digest in the header."""
    with replacing(path) as temporary:
        temporary.write_bytes(save({**weights.tensors, ANCHORS: weights.anchors}, {_DIGEST: weights.digest}))


# The layouts. Each reader returns tensors by their name in the PyTorch ports, and the digest that the file claims.

Found = tuple[Mapping[str, Any], str | None]


def _reader(start: bytes) -> Callable[[Path], Found]:
    if start.startswith((_ZIP, _OLD_TORCH)):
        return _read_torch
    if start.startswith(_PICKLE):
        return _read_pickle
    return _read_safetensors if start[8:10] == b'{"' else _read_caffe


def _read_torch(path: Path) -> Found:
    if archived := zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("its archive is compressed, which torch's never is")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=archived)
    except pickle.UnpicklingError:
        raise ValueError("it holds other things than plain values and tensors; nothing in it was run") from None
    return _ported(values), None


def _read_pickle(path: Path) -> Found:
    return _ported(read_plain_pickle(path, "detector", ARRAY_CLASSES)), None


def _ported(values: Any) -> Mapping[str, Any]:
    """Return the weights of a PyTorch port, bare or under `model`, with Caffe's rows."""
    if isinstance(values, dict) and isinstance(dict.get(values, "model"), dict):
        values = dict.get(values, "model")
    if not isinstance(values, dict):
        raise ValueError("it holds no weights by name")
    tensors = {
        name: torch.from_numpy(value.array()) if isinstance(value, PickledArray) else value
        for name, value in dict.items(values)
        if isinstance(name, str)
    }
    weights = {name: value for name, value in tensors.items() if _is_dense(value)}
    if any(name.startswith("RCNN_") for name in weights):
        raise ValueError("it is of a port without attributes, which cannot be used; use the Caffe model's file")
    return from_airsplay(weights) if is_airsplay(weights) else weights


def _is_dense(value: Any) -> bool:
    """Whether a value is a tensor whose every number has its bytes in memory."""
    return (
        type(value) in (Tensor, torch.nn.Parameter)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and value.dtype in _FLOATS
        and math.prod(value.shape) * value.element_size() <= value.untyped_storage().nbytes()
    )


def _read_safetensors(path: Path) -> Found:
    with safe_open(path, "pt") as file:
        digest = (file.metadata() or {}).get(_DIGEST)
        if digest is None:
            raise ValueError("it was not written by convert-detector")
        return {name: file.get_tensor(name) for name in file.keys()}, digest  # noqa: SIM118, no dict


def _read_caffe(path: Path) -> Found:
    layers = read_layers(path.read_bytes())
    if not layers:
        raise ValueError("it is none of .caffemodel, .pth, .pkl, .bin and .safetensors")
    return from_caffe(layers), None


# The checks


def _checked(found: Mapping[str, Any]) -> DetectorWeights:
    """Return what the network needs of the weights found. Raises ValueError at the first that is missing or off."""
    if "backbone.res4.23.conv1.weight" in found or "backbone.res3.4.conv1.weight" in found:
        raise ValueError("it has more blocks than ResNet-101, for which alone this network is made")
    tensors = {name: _weight(name, found.get(name), shape) for name, shape in weight_shapes().items()}
    anchors = _anchors(found.get(ANCHORS))
    digest = hashlib.sha256()
    for name, value in {**tensors, ANCHORS: anchors}.items():
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.numpy().data)
    return DetectorWeights(tensors, anchors, digest.hexdigest())


def _weight(name: str, value: Tensor | None, shape: torch.Size) -> Tensor:
    if value is None:
        raise ValueError(f"it lacks {name} of the ResNet-101 detector with attributes")
    if [side for side in value.shape if side != 1] != [side for side in shape if side != 1]:
        raise ValueError(f"{name} has the shape {tuple(value.shape)}, expected {tuple(shape)}")
    value = value.detach().to(torch.float32).reshape(shape).contiguous()
    if not np.isfinite(value.numpy()).all():
        raise ValueError(f"{name} holds NaN or infinite values")
    if name.endswith("running_var") and (value < 0).any():
        raise ValueError(f"{name} holds negative variances")
    return value


def _anchors(found: Tensor | None) -> Tensor:
    """Return the anchors of the file, for they give the order of the proposals' channels; else Caffe's."""
    if found is None:
        return cell_anchors()
    anchors = found.detach().to(torch.float32).contiguous()
    if anchors.shape != (12, 4) or not torch.isfinite(anchors).all() or (anchors[:, 2:] <= anchors[:, :2]).any():
        raise ValueError(f"{ANCHORS} holds no 12 boxes")
    if (anchors[:, 2:] - anchors[:, :2]).max() < _SMALLEST_ANCHOR:
        raise ValueError(
            "its anchors are 4 to 32 pixels, not 64 to 512: it was saved by a program that had lost them; "
            "get the original file"
        )
    return anchors
