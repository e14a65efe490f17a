"""The detector's network: ResNet-101 up to res4, region proposals, RoI max pooling, res5 and the heads.

As in the published Caffe model: strides lie on the first convolution of a block, the stem's pooling pads nothing
and rounds up, and res5 has stride 1 and dilation 2. Module names are those of the published PyTorch weights.
Batch norm is folded into the convolutions when weights are loaded (`fold_norms`), so no norm is left here.

Letters: N boxes, H and W the size of the res4 map (16 image pixels to a cell), A = 12 anchors per cell.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmnas.detector.convolution import ConvReLU, conv_add_relu_
from mmnas.detector.pooling import RoiMaxPool

OBJECTS, ATTRIBUTES = 1601, 401
"""Numbers of classes; index 0 is the background, or no attribute."""
FEATURE_SIZE = 2048
_NORM_EPSILON = 1e-5
_NORM_PARTS = ("weight", "bias", "running_mean", "running_var")
_BOXES_AT_ONCE = 32  # through res5


@dataclass(frozen=True, slots=True)
class Described:
    """What the heads say of N boxes: features (N, 2048), object and attribute probabilities (N, 1601), (N, 401)."""

    features: Tensor
    objects: Tensor
    attributes: Tensor


class Detector(nn.Module):
    """The whole network; `cell_anchors` (12, 4) are the anchors of the cell at the origin, xyxy pixels.

    With `fast_heads`, res5 computes in bfloat16: several times as fast on recent processors, and about
    three digits of the features are right.
    """

    cell_anchors: Tensor

    def __init__(self, fast_heads: bool = False) -> None:
        super().__init__()
        self.fast_heads = fast_heads
        self.backbone = _backbone()
        self.proposal_generator = nn.ModuleDict({"rpn_head": _RpnHead()})
        res5 = _stage(1024, 512, blocks=3, dilation=2)
        self.roi_heads = nn.ModuleDict({"res5": res5, "box_predictor": _BoxPredictor()})
        self.register_buffer("cell_anchors", torch.zeros(12, 4))

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor], anchors: Tensor, fast_heads: bool = False) -> "Detector":
        """Build the network in evaluation mode from unfolded weights, as `weights.py` reads them."""
        with torch.device("meta"):
            network = cls(fast_heads)
        network.load_state_dict({**fold_norms(weights), "cell_anchors": anchors.float()}, assign=True)
        network.requires_grad_(False).eval()
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stub
        if fast_heads:
            network.roi_heads["res5"].bfloat16()
        return network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return res4 (1, 1024, H, W), foreground (1, A, H, W) and offsets (1, 4A, H, W) of pixels (1, 3, h, w)."""
        res4 = self.backbone(pixels)
        logits, offsets = self.proposal_generator["rpn_head"](res4)
        foreground = logits.unflatten(1, (2, -1)).softmax(dim=1)[:, 1]  # background logits come first
        return res4, foreground, offsets

    def describe(self, res4: Tensor, boxes: Tensor) -> Described:
        """Return features and probabilities of boxes (N, 4), in pixels of the network's input."""
        pooled = RoiMaxPool(res4, boxes)
        starts = range(0, len(boxes), _BOXES_AT_ONCE)
        features = torch.cat([self._features(pooled[start : start + _BOXES_AT_ONCE]) for start in starts])
        objects, attributes = self.roi_heads["box_predictor"](features)
        return Described(features, objects.softmax(dim=1), attributes.softmax(dim=1))

    def _features(self, pooled: Tensor) -> Tensor:
        """Return the means over the cells (N, 2048) of res5 on pooled boxes (N, 1024, 14, 14)."""
        if self.fast_heads:
            pooled = pooled.bfloat16()
        return self.roi_heads["res5"](pooled).mean(dim=(2, 3), dtype=torch.float32)


class _Block(nn.Module):
    """A bottleneck block; the stride is on the first convolution and on the shortcut.

    Without a convolution in the shortcut, the result takes the memory of the input.
    """

    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = ConvReLU(inputs, width, 1, stride)
        self.conv2 = ConvReLU(width, width, 3, padding=dilation, dilation=dilation)
        self.conv3 = nn.Conv2d(width, 4 * width, 1)
        self.shortcut = nn.Conv2d(inputs, 4 * width, 1, stride) if inputs != 4 * width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv2(self.conv1(x))
        return conv_add_relu_(self.shortcut(x), self.conv3, inner)


def _stage(inputs: int, width: int, blocks: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    later = (_Block(4 * width, width, 1, dilation) for _ in range(blocks - 1))
    return nn.Sequential(_Block(inputs, width, stride, dilation), *later)


def _backbone() -> nn.Sequential:
    parts = OrderedDict[str, nn.Module]()
    conv1, pool = ConvReLU(3, 64, 7, stride=2, padding=3), nn.MaxPool2d(3, stride=2, ceil_mode=True)
    parts["stem"] = nn.Sequential(OrderedDict(conv1=conv1, pool=pool))
    parts["res2"] = _stage(64, 64, blocks=3)
    parts["res3"] = _stage(256, 128, blocks=4, stride=2)
    parts["res4"] = _stage(512, 256, blocks=23, stride=2)
    return nn.Sequential(parts)


class _RpnHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = ConvReLU(1024, 512, 3, padding=1)
        self.objectness_logits = nn.Conv2d(512, 24, 1)
        self.anchor_deltas = nn.Conv2d(512, 48, 1)

    def forward(self, res4: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(res4)
        return self.objectness_logits(x), self.anchor_deltas(x)


class _BoxPredictor(nn.Module):
    """Object logits of features (N, 2048), and attribute logits that follow from the best object."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_score = nn.Linear(FEATURE_SIZE, OBJECTS)
        self.cls_embed = nn.Embedding.from_pretrained(torch.empty(OBJECTS, 256))
        self.attr_linear1 = nn.Linear(FEATURE_SIZE + 256, 512)
        self.attr_linear2 = nn.Linear(512, ATTRIBUTES)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        objects = self.cls_score(features)
        best = self.cls_embed(objects.argmax(dim=1))  # (N, 256); the background counts too
        return objects, self.attr_linear2(F.relu_(self.attr_linear1(torch.cat([features, best], dim=1))))


def weight_shapes() -> dict[str, torch.Size]:
    """Return names and shapes of all weights, batch norms not folded."""
    with torch.device("meta"):
        state = Detector().state_dict()
    shapes: dict[str, torch.Size] = {}
    for name, value in state.items():
        layer, _, part = name.rpartition(".")
        if part == "bias" and _has_norm(layer):
            shapes |= {f"{layer}.norm.{part}": value.shape for part in _NORM_PARTS}
        elif name != "cell_anchors":
            shapes[name] = value.shape
    return shapes


def _has_norm(layer: str) -> bool:
    return layer.startswith(("backbone.", "roi_heads.res5."))


def fold_norms(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the network's weights, with each batch norm folded into the convolution before it."""
    folded = {}
    for name, value in weights.items():
        layer, _, part = name.rpartition(".")
        if layer.endswith(".norm"):
            continue
        if _has_norm(layer):
            gain, shift, mean, variance = (weights[f"{layer}.norm.{part}"].double() for part in _NORM_PARTS)
            factor = gain / torch.sqrt(variance + _NORM_EPSILON)
            folded[f"{layer}.bias"] = (shift - mean * factor).float()
            value = value * factor.float()[:, None, None, None]
        folded[f"{layer}.{part}"] = value
    return folded
