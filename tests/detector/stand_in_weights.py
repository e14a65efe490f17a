"""Stand-in weights at full size, and the recorded figures of the reference detector with them."""

import base64
import functools
import json
import zlib

import numpy as np
from PIL import Image

from tests.stand_in import ROOT

PARITY = ROOT / "tests" / "parity"


@functools.cache
def recorded():
    return json.loads((PARITY / "detector.json").read_text())


@functools.cache
def names():
    """Names and shapes of the published PyTorch weights."""
    return json.loads((PARITY / "detector_names.json").read_text())


def array(value):
    return np.frombuffer(base64.b64decode(value["f32"]), "<f4").reshape(value["shape"])


def image(key):
    """The image of a key, (h, w, 3) uint8, blue first."""
    if key == "synthetic":
        y, x = np.mgrid[:240, :720]
        red, green = (7 * x + 3 * y) % 256, (x // 16 + y // 16) % 2 * 160 + x * y // 32 % 64
        blue = ((x - 360) ** 2 + (y - 120) ** 2) // 64 % 256
        return np.stack([blue, green, red], axis=-1).astype(np.uint8)
    with Image.open(image_path(key)) as file:
        return np.ascontiguousarray(np.asarray(file.convert("RGB"))[..., ::-1])


def image_path(key):
    if key == "grace_hopper":
        from matplotlib import get_data_path

        return f"{get_data_path()}/sample_data/grace_hopper.jpg"
    return PARITY / f"{key}.png"


def stand_in(name, shape):
    """The stand-in values of one weight, float32."""
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    return np.asarray(_values(name, shape, rng)).astype(np.float32)


def _values(name, shape, rng):
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape)
    if "cell_anchors" in name:
        return np.array(recorded()["meta"]["cell_anchors"])
    stem, third = ".stem." in name, ".conv3.norm" in name
    if name.endswith("norm.weight"):
        return (0.5 + rng.random_sample(shape)) * (_of_stage(name, 0.15, 0.8, 0.4) if third else 1)
    if name.endswith("norm.bias"):
        values = 0.2 * rng.standard_normal(shape)
        return values * 0.25 - _of_stage(name, 0.02, 0.6, 0.05) if third else values
    if name.endswith("running_mean"):
        return (20 if stem else 0.1) * rng.standard_normal(shape)
    if name.endswith("running_var"):
        return (5000 if stem else 1) * (0.5 + rng.random_sample(shape))
    if name.endswith(".bias"):
        values = 0.1 * rng.standard_normal(shape)
        values[0] += 6 * name.endswith("cls_score.bias")
        return values
    values = rng.standard_normal(shape)
    values -= values.mean(axis=tuple(range(1, len(shape))), keepdims=True)
    return values if name.endswith("cls_embed.weight") else values * _gain(name) / np.sqrt(np.prod(shape[1:]))


def _of_stage(name, res4, res5, other):
    return res4 if ".res4." in name else res5 if ".res5." in name else other


def _gain(name):
    gains = {"objectness_logits": 2, "anchor_deltas": 0.25, "bbox_pred": 0.25, "cls_score": 36, "attr_linear2": 12}
    return gains.get(name.split(".")[-2], 2**0.5)


@functools.cache
def all_weights():
    return {name: stand_in(name, shape) for name, shape in names().items()}
