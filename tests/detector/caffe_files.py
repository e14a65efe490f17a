"""Writing the published layouts of the weights from those in the PyTorch ports' names."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

LENGTH = 2  # protobuf's wire type
FACTOR = np.float32(4)  # by which a .caffemodel's means and variances are too large; a power of 2 keeps all bits
RPN, HEADS = "proposal_generator.rpn_head", "roi_heads.box_predictor"
FOREIGN = {"heatmap_1": [np.ones((2, 3), np.float32)], "fc_rel1": [np.ones(4, np.float32)], "data": []}


def write_caffemodel(path: Path, weights: Mapping[str, np.ndarray]) -> None:
    """Write a `.caffemodel` as the official one is: norms in two layers each, and layers that nothing here uses."""
    with open(path, "wb") as file:
        file.write(b"\x0a\x0bVGG_FACE_16")  # the name of the network
        file.writelines(write_layers({**caffe_layers(weights), **FOREIGN}))


def caffe_layers(weights: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    layers = {}
    for ours, theirs, norm in conv_names():
        layers[theirs] = [weights[f"{ours}.weight"]]
        sums = [weights[f"{ours}.norm.{part}"] * FACTOR for part in ("running_mean", "running_var")]
        layers[f"bn{norm}"] = [*sums, np.array([FACTOR])]
        layers[f"scale{norm}"] = [weights[f"{ours}.norm.{part}"] for part in ("weight", "bias")]
    for ours, theirs in {
        f"{RPN}.conv": "rpn_conv/3x3",
        f"{RPN}.objectness_logits": "rpn_cls_score",
        f"{RPN}.anchor_deltas": "rpn_bbox_pred",
        f"{HEADS}.cls_score": "cls_score",
        f"{HEADS}.bbox_pred": "bbox_pred",
        f"{HEADS}.attr_linear1": "fc_attr",
        f"{HEADS}.attr_linear2": "attr_score",
    }.items():
        layers[theirs] = [weights[f"{ours}.weight"], weights[f"{ours}.bias"]]
    layers["cls_embedding"] = [weights[f"{HEADS}.cls_embed.weight"]]
    return {name: blobs for name, blobs in layers.items() if name != "bbox_pred" or blobs[0].size}


def conv_names() -> Iterator[tuple[str, str, str]]:
    """Yield the name of each convolution of the ResNet: ours, Caffe's, and what Caffe's norms are called after."""
    yield "backbone.stem.conv1", "conv1", "_conv1"
    blocks = {
        2: "abc",
        3: ["a", "b1", "b2", "b3"],
        4: ["a", *(f"b{number}" for number in range(1, 23))],
        5: "abc",
    }
    for stage, names in blocks.items():
        room = "roi_heads" if stage == 5 else "backbone"
        for index, block in enumerate(names):
            for ours, branch in (("shortcut", "1"), ("conv1", "2a"), ("conv2", "2b"), ("conv3", "2c")):
                if index == 0 or ours != "shortcut":
                    name = f"{stage}{block}_branch{branch}"
                    yield f"{room}.res{stage}.{index}.{ours}", f"res{name}", name


def write_layers(layers: Mapping[str, list[np.ndarray]]) -> Iterator[bytes]:
    for name, blobs in layers.items():
        body = [_field(1, [name.encode("ascii")])]
        for blob in blobs:
            dims = b"".join(map(_encoded, blob.shape))
            body.append(_field(7, [*_field(7, _field(1, [dims])), *_field(5, [blob.astype("<f4").tobytes()])]))
        yield from _field(100, [part for field in body for part in field])


def _field(number: int, parts: list[bytes]) -> list[bytes]:
    return [_encoded(number << 3 | LENGTH), _encoded(sum(map(len, parts))), *parts]


def _encoded(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def airsplay(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return weights as in airsplay's files: background last, objectness a difference, anchors size major."""
    order = [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    names = {"cls_embed": "cls_embedding", "attr_linear1": "fc_attr", "attr_linear2": "attr_score"}
    result = {}
    for name, values in weights.items():
        head, _, part = name.removeprefix(f"{HEADS}.").rpartition(".")
        if head in ("cls_score", "cls_embed", "attr_linear2"):
            values = np.concatenate([values[1:], values[:1]])
        elif head == "bbox_pred":
            values = values[4:]
        elif head == f"{RPN}.objectness_logits":
            values = (values[12:] - values[:12])[order]
        elif head == f"{RPN}.anchor_deltas":
            values = np.stack(np.split(values, 12))[order].reshape(values.shape)
        elif "cell_anchors" in name:
            values = values[order]
        if part != "num_batches_tracked":
            result[f"{HEADS}.{names[head]}.{part}" if head in names else name] = values
    return result
