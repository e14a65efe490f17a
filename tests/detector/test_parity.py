"""Every stage of the detector against the recorded figures of the reference, on stand-in weights at full size.

This is a share: 24 of the 300 boxes of each image go through res5. `python -m tests.detector` does the rest.
"""

import zlib

import numpy as np
import pytest
import torch

from mmnas.detector.regions import Choice, propose, select
from tests.detector.comparing import check_described, check_samples
from tests.detector.stand_in_weights import all_weights, array, recorded

BOXES = 24


@pytest.mark.parametrize("name", recorded()["meta"]["weight_checks"])
def test_stand_in_weights_are_the_recorded_ones(name):
    expected, values = recorded()["meta"]["weight_checks"][name], all_weights()[name]
    assert list(values.shape) == expected["shape"]
    assert values.ravel()[:4] == pytest.approx(expected["first4"], rel=1e-6)
    assert (values.astype(np.float64) ** 2).sum() == pytest.approx(expected["sum_squares"], rel=1e-6)


def test_the_input_of_the_network(case):
    assert zlib.crc32(case.image.tobytes()) == case.recorded["image"]["crc32_bgr"]
    assert case.scale == pytest.approx(case.recorded["image"]["im_scale"], rel=1e-12)
    check_samples(case.pixels[0], case.recorded["blob"], 1e-4)


def test_the_backbone_and_the_proposal_head(case):
    check_samples(case.res4, case.recorded["res4"], 1e-4)
    check_samples(case.foreground, case.recorded["rpn"]["foreground"], 1e-5)
    check_samples(case.offsets, case.recorded["rpn"]["deltas"], 1e-4)


def test_the_proposals(case, network):
    size = case.pixels.shape[-2:]
    boxes, scores = propose(network.cell_anchors, case.foreground, case.offsets, size, case.scale)
    expected = array(case.recorded["proposals"]["boxes"])
    assert len(boxes) == len(expected) == 300
    distance = (boxes[:, None] - torch.from_numpy(expected.copy())).abs().amax(dim=2)  # neighbors may swap
    assert distance.amin(dim=0).max() < 0.01 and distance.amin(dim=1).max() < 0.01
    assert scores.numpy() == pytest.approx(array(case.recorded["proposals"]["scores"]), abs=1e-5)


def test_features_classes_and_attributes_of_boxes(case, network):
    boxes = array(case.recorded["proposals"]["boxes"])[:BOXES]
    with torch.inference_mode():
        described = network.describe(case.res4, torch.from_numpy(boxes.copy()))
    check_described(described, case.recorded["heads"], BOXES)


@pytest.mark.parametrize("settings", ["10,100,0.2", "36,36,0.2", "100,100,0.2", "10,20,0.4"])
def test_the_selection(case, settings):
    least, most, threshold = settings.split(",")
    confidence = array(case.recorded["selection"]["max_conf"])
    kept = select(confidence, Choice(int(least), int(most), float(threshold)))
    assert kept.tolist() == case.recorded["selection"]["cases"][settings]["keep"]
