"""Encoding, decoding, clipping and elementwise IoU, against the fixture and by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mmnas.boxes import pairwise_iou
from mmnas.boxes.geometry import (
    OFFSET_STDS,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    normalize_offsets,
    paired_iou,
    unnormalize_offsets,
)

PARITY = json.loads((Path(__file__).parents[1] / "parity" / "boxes.json").read_text())


def doubles(values):
    return torch.tensor(values, dtype=torch.float64)


def parity(key):
    return doubles(PARITY[key])


def assert_close(actual, expected, tolerance=1e-6):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def test_parity_encode():
    offsets = encode_boxes(parity("proposals"), parity("references")[1])
    assert_close(offsets, parity("regression_targets_to_reference_1"))
    assert tuple(PARITY["regression_std"]) == OFFSET_STDS


def test_parity_decode_and_clip():
    decoded = decode_boxes(parity("proposals"), parity("deltas"))
    assert_close(decoded, parity("decoded"))
    image_size = torch.tensor([PARITY["image_height"], PARITY["image_width"]])
    assert_close(clip_boxes(decoded, image_size), parity("decoded_and_clipped"))


def test_parity_paired_iou_broadcasts():
    proposals, references = parity("proposals"), parity("references")
    assert_close(paired_iou(proposals[:, None], references[None]), parity("iou"))


def test_encode_by_hand():
    # Proposal: 10 x 20 around (5, 10). Target: 20 x 20 around (20, 15).
    offsets = encode_boxes(doubles([0, 0, 9, 19]), doubles([10, 5, 29, 24]))
    assert_close(offsets, doubles([1.5, 0.25, np.log(2), 0]), 1e-12)


def test_decode_by_hand_keeps_the_published_far_corner():
    # 10 x 20 around (5, 10), moved by half a width and doubled in height: 10 x 40 around (10, 10).
    decoded = decode_boxes(doubles([0, 0, 9, 19]), doubles([0.5, 0, 0, np.log(2)]))
    assert_close(decoded, doubles([5, -10, 15, 30]), 1e-12)


def test_round_trip_is_one_pixel_wider_and_higher():
    proposals, target = parity("proposals"), parity("references")[3]
    decoded = decode_boxes(proposals, encode_boxes(proposals, target))
    assert_close(decoded, (target + doubles([0, 0, 1, 1])).expand(12, 4), 1e-9)


def test_encode_is_finite_on_zero_padding():
    padding = torch.zeros(2, 3, 4)
    assert_close(encode_boxes(padding, padding), torch.zeros(2, 3, 4))


def test_normalising_is_undone():
    offsets = torch.tensor([[0.1, 0.2, 0.2, -0.4]])
    assert_close(normalize_offsets(offsets), torch.tensor([[1.0, 2.0, 1.0, -2.0]]))
    assert_close(unnormalize_offsets(normalize_offsets(offsets)), offsets)


def test_clip_by_hand_per_image():
    boxes = torch.tensor([[[-3.0, -1.0, 50.0, 60.0]] * 2, [[5.0, 6.0, 7.0, 8.0], [99.0, 99.0, 120.0, 130.0]]])
    image_sizes = torch.tensor([[40, 30], [100, 110]])  # height, width
    expected = [[[0.0, 0.0, 29.0, 39.0]] * 2, [[5.0, 6.0, 7.0, 8.0], [99.0, 99.0, 109.0, 99.0]]]
    clipped = clip_boxes(boxes, image_sizes[:, None])
    assert clipped.dtype == torch.float32
    assert_close(clipped, torch.tensor(expected))


def test_clip_holds_an_overflowing_prediction():
    decoded = decode_boxes(torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([[0.0, 0.0, 200.0, 0.0]]))
    assert_close(clip_boxes(decoded, torch.tensor([[10, 20]])), torch.tensor([[0.0, 0.0, 19.0, 9.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_paired_iou_equals_the_diagonal_of_the_pairwise_one(dtype):
    generator = torch.Generator().manual_seed(3)
    boxes, others = torch.rand(2, 200, 4, generator=generator, dtype=dtype) * 50
    boxes[::9, 2] = float("nan")
    expected = pairwise_iou(boxes.numpy(), others.numpy()).diagonal()
    actual = paired_iou(boxes, others)
    assert (actual > 0).any() and (actual == 0).any()
    assert actual.dtype == dtype
    assert_close(actual, torch.from_numpy(expected.copy()))


def test_gradients_reach_the_offsets():
    offsets = torch.zeros(3, 4, requires_grad=True)
    decode_boxes(torch.tensor([0.0, 0.0, 9.0, 9.0]), unnormalize_offsets(offsets)).square().sum().backward()
    assert (offsets.grad != 0).all()
