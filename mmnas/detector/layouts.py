"""The published layouts of the detector's weights, turned into one: that of the PyTorch ports of the Caffe model.

Three layouts hold the same numbers. Caffe's layers have names of their own. The ports keep the order of all rows.
airsplay's files, as on the Hugging Face Hub, put the background last, subtract its objectness from the
foreground's, and order anchors by size first.
"""

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mmnas.detector.caffemodel import Blobs
from mmnas.detector.regions import cell_anchors

ANCHORS = "proposal_generator.anchor_generator.cell_anchors.0"
_RPN = "proposal_generator.rpn_head"
_HEADS = "roi_heads.box_predictor"
_CAFFE_HEADS = {
    "rpn_conv/3x3": f"{_RPN}.conv",
    "rpn_cls_score": f"{_RPN}.objectness_logits",
    "rpn_bbox_pred": f"{_RPN}.anchor_deltas",
    "cls_score": f"{_HEADS}.cls_score",
    "cls_embedding": f"{_HEADS}.cls_embed",
    "fc_attr": f"{_HEADS}.attr_linear1",
    "attr_score": f"{_HEADS}.attr_linear2",
}
_CAFFE_STAGE = re.compile(r"(res|bn|scale)([2-5])(?:([abc])|b(\d{1,2}))_branch(1|2a|2b|2c)")
_CAFFE_BRANCHES = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
_CAFFE_PARTS = {
    "res": ("weight",),
    "bn": ("norm.running_mean", "norm.running_var"),
    "scale": ("norm.weight", "norm.bias"),
}
_CAFFE_STEM = {"conv1": "res", "bn_conv1": "bn", "scale_conv1": "scale"}
_AIRSPLAY_NAMES = {"cls_embedding": "cls_embed", "fc_attr": "attr_linear1", "attr_score": "attr_linear2"}
_BACKGROUND_LAST = ("cls_score.", "cls_embedding.", "attr_score.")
# For each of Caffe's anchors, where airsplay's files have it, unless they hold the anchors themselves.
_AIRSPLAY_ORDER = [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]


def from_caffe(layers: Mapping[str, Blobs]) -> dict[str, Tensor]:
    """Return the weights of a `.caffemodel`; layers of other names, such as of relations, are left out.

    Raises ValueError for a layer with the wrong number of blobs.
    """
    weights: dict[str, Tensor] = {}
    for name, blobs in layers.items():
        if (found := _caffe_layer(name)) is not None:
            layer, parts = found
            if parts == _CAFFE_PARTS["bn"]:
                blobs = _divided(name, blobs)
            if len(blobs) > len(parts):
                raise ValueError(f"the layer {name} has {len(blobs)} blobs")
            for part, blob in zip(parts, blobs, strict=False):
                weights[f"{layer}.{part}"] = torch.from_numpy(np.array(blob))
    return weights


def _caffe_layer(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Return our name of a Caffe layer and those of its blobs, or None for a layer that is not used."""
    if name in _CAFFE_HEADS:
        return _CAFFE_HEADS[name], ("weight", "bias")
    if name in _CAFFE_STEM:
        return "backbone.stem.conv1", _CAFFE_PARTS[_CAFFE_STEM[name]]
    if (match := _CAFFE_STAGE.fullmatch(name)) is None:
        return None
    kind, stage, letter, number, branch = match.groups()
    block = int(number) if number else "abc".index(letter)
    part = "roi_heads" if stage == "5" else "backbone"
    return f"{part}.res{stage}.{block}.{_CAFFE_BRANCHES[branch]}", _CAFFE_PARTS[kind]


def _divided(name: str, blobs: Blobs) -> Blobs:
    """Return mean and variance of a norm: in the file both are sums, to be divided by the third blob."""
    if len(blobs) != 3 or blobs[2].size != 1:
        raise ValueError(f"the norm {name} has not a mean, a variance and a factor")
    factor = blobs[2].reshape(())
    return [blob / factor if factor else np.zeros_like(blob) for blob in blobs[:2]]


def is_airsplay(weights: Mapping[str, Tensor]) -> bool:
    """Whether weights have the names of airsplay's files, as pickled or on the Hub."""
    return f"{_HEADS}.fc_attr.weight" in weights


def from_airsplay(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return airsplay's weights in the order of Caffe's rows; the anchors become Caffe's.

    Raises ValueError where the anchors in the file are not those of Caffe in another order.
    """
    order = _AIRSPLAY_ORDER if ANCHORS not in weights else _anchor_order(weights[ANCHORS])
    result = {}
    for name, value in weights.items():
        head = name.removeprefix(f"{_HEADS}.")
        if head.startswith(_BACKGROUND_LAST):
            value = value.roll(1, dims=0)
        elif name.startswith((f"{_RPN}.objectness_logits", f"{_RPN}.anchor_deltas")):
            per_anchor = 4 if "deltas" in name else 1
            value = value.unflatten(0, (12, per_anchor))[order].flatten(0, 1)
            if per_anchor == 1:
                value = torch.cat([torch.zeros_like(value), value])  # (24, ...): the background's logits are 0
        layer, _, part = head.rpartition(".")
        result[f"{_HEADS}.{_AIRSPLAY_NAMES[layer]}.{part}" if layer in _AIRSPLAY_NAMES else name] = value
    result[ANCHORS] = cell_anchors()
    return result


def _anchor_order(theirs: Tensor) -> list[int]:
    """Return for each of Caffe's anchors which of `theirs` (12, 4) has its width and height."""
    if theirs.shape != (12, 4):
        raise ValueError(f"the anchors have the shape {tuple(theirs.shape)}, not (12, 4)")
    ours = cell_anchors()
    sizes, our_sizes = theirs[:, 2:].float() - theirs[:, :2].float(), ours[:, 2:] - ours[:, :2] + 1
    distance = (sizes.clamp(min=1).log()[None] - our_sizes.log()[:, None]).abs().amax(dim=2)  # (12, 12)
    order = distance.argmin(dim=1).tolist()
    if sorted(order) != list(range(12)) or distance.amin(dim=1).max() > 0.1:
        raise ValueError("the anchors are not those of the published detector")
    return order
