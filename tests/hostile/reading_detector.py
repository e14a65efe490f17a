"""Small valid files of a detector in every layout, and of region features in tables; and how they are read."""

import pickle
from pathlib import Path

import numpy as np
import torch

from mmnas.data.tsv import read_tsv
from mmnas.detector.layouts import ANCHORS
from mmnas.detector.regions import cell_anchors
from mmnas.detector.weights import read_weights, write_weights
from tests.data.test_tsv import WIDTH, bottom_up, lxmert
from tests.detector.caffe_files import airsplay, caffe_layers, write_layers
from tests.detector.small import small_detector, small_weights


def _with_anchors() -> dict[str, np.ndarray]:
    return {**small_weights(), ANCHORS: cell_anchors().numpy()}


class _Filled(dict):
    """Has an empty array where there is none."""

    def __missing__(self, name: str) -> np.ndarray:
        return np.zeros(0, np.float32)


def write_caffe(folder: Path) -> Path:
    layers = caffe_layers(_Filled(small_weights()))
    layers = {name: blobs for name, blobs in layers.items() if blobs[0].size}
    path = folder / "detector"
    path.write_bytes(b"".join(write_layers(layers)))
    return path


def write_port(folder: Path) -> Path:
    weights = {name: torch.from_numpy(values) for name, values in _with_anchors().items()}
    torch.save({"model": weights}, folder / "detector")
    return folder / "detector"


def write_airsplay(folder: Path) -> Path:
    weights = {name: np.ascontiguousarray(values) for name, values in airsplay(_with_anchors()).items()}
    (folder / "detector").write_bytes(pickle.dumps({"model": weights}, 2))
    return folder / "detector"


def write_hub(folder: Path) -> Path:
    weights = airsplay(_with_anchors()).items()
    torch.save(
        {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in weights}, folder / "detector"
    )
    return folder / "detector"


def write_converted(folder: Path) -> Path:
    with small_detector():
        weights = read_weights(write_caffe(folder))
    write_weights(folder / "detector", weights)
    return folder / "detector"


def read_detector(folder: Path) -> None:
    with small_detector():
        weights = read_weights(folder / "detector")
    assert all(torch.isfinite(value).all() for value in weights.tensors.values())


def write_table(folder: Path) -> Path:
    (folder / "features.tsv").write_bytes(bottom_up() + lxmert())
    return folder / "features.tsv"


def read_table(folder: Path) -> None:
    for _, regions in read_tsv(folder / "features.tsv", WIDTH):
        assert len(regions.features) == len(regions.boxes) and np.isfinite(regions.features).all()
