"""Fused convolutions have the bits of the separate steps, and so has the way without oneDNN."""

import pytest
import torch
from torch import nn

from mmnas.detector import convolution
from mmnas.detector.convolution import ConvReLU, conv_add_relu_


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits(layout, onednn, dtype, monkeypatch):
    if not onednn:
        monkeypatch.setattr(convolution, "_onednn_serves", lambda x: False)
    torch.manual_seed(0)
    conv, fused = (kind(16, 32, 3, padding=2, dilation=2).to(dtype) for kind in (nn.Conv2d, ConvReLU))
    fused.load_state_dict(conv.state_dict())
    x = torch.randn(3, 16, 9, 11, dtype=dtype).to(memory_format=layout)
    residual = torch.randn(3, 32, 9, 11, dtype=dtype).to(memory_format=layout)
    with torch.inference_mode():
        plain = conv(x)
        assert torch.equal(fused(x), plain.relu())
        assert torch.equal(conv_add_relu_(residual.clone(), conv, x), (plain + residual).relu())
