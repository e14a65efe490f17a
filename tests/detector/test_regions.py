"""The network's input, the proposals and the choice of regions, by hand and by slower means."""

import numpy as np
import pytest
import torch

from mmnas.boxes import nms
from mmnas.detector.regions import Choice, best_confidence, network_input, propose, select
from mmnas.errors import DataError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(480, 640, (600, 800)), (640, 480, (800, 600)), (300, 1000, (300, 1000)), (100, 100, (600, 600))],
)
def test_the_size_of_the_input(height, width, size):
    pixels, scale = network_input(np.zeros((height, width, 3), np.uint8), CPU)
    assert pixels.shape == (1, 3, *size)
    assert scale == pytest.approx(size[0] / height)


def test_one_color_stays_that_color():
    image = np.full((50, 60, 3), (10, 20, 30), np.uint8)
    pixels, _ = network_input(image, CPU)
    assert pixels[0].amax(dim=(1, 2)).tolist() == pytest.approx([10 - 102.9801, 20 - 115.9465, 30 - 122.7717])
    assert torch.equal(pixels.amax(dim=(2, 3)), pixels.amin(dim=(2, 3)))


def test_between_two_pixels_lies_their_mean():
    """At scale 2, the centers lie a quarter to each side: 0, 0.25, 0.75, 1 of the step from 0 to 100."""
    image = np.zeros((300, 300, 3), np.uint8)
    image[:, 150:] = 100
    row = network_input(image, CPU)[0][0, 0, 100, 298:302] + 102.9801
    assert row.numpy() == pytest.approx([0, 25, 75, 100], abs=1e-4)


@pytest.mark.parametrize("shape", [(15, 400), (400, 15), (16, 2000), (1, 1)])
def test_images_too_small_or_narrow_are_refused(shape):
    with pytest.raises(DataError, match=f"{shape[1]} x {shape[0]}"):
        network_input(np.zeros((*shape, 3), np.uint8), CPU)


def test_proposals_by_hand():
    """The better one first, moved by its offset and cut at the border; a small one is dropped."""
    anchors = torch.tensor([[0.0, 0, 31, 31]])
    foreground = torch.tensor([[[[0.6, 0.9, 0.99]]]])  # (1, A, H, W)
    offsets = torch.zeros(1, 4, 1, 3)
    offsets[0, 0, 0, 1] = 0.5  # to the right by half a width
    offsets[0, 2:, 0, 2] = -1.0  # 32 / e = 11.8 pixels
    boxes, scores = propose(anchors, foreground, offsets, (40, 60), 1.0)
    assert scores.tolist() == pytest.approx([0.9, 0.6])
    assert boxes.tolist() == [[32, 0, 59, 32], [0, 0, 32, 32]]


def test_confidence_is_that_of_suppression_class_by_class():
    rng = np.random.default_rng(3)
    corners = rng.uniform(0, 300, (80, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(20, 200, (80, 2))], axis=1).astype(np.float32)
    objects = rng.dirichlet(np.full(41, 0.2), 80).astype(np.float32)
    objects[5] = objects[9]  # a tie
    expected = np.zeros(80, np.float32)
    for scores in objects[:, 1:].T:
        kept = nms(boxes, scores, 0.3)
        expected[kept] = np.maximum(expected[kept], scores[kept])
    assert np.array_equal(best_confidence(boxes, objects), expected)


CONFIDENCE = np.array([0.1, 0.5, 0.2, 0.0, 0.5, 0.3], np.float32)


@pytest.mark.parametrize(
    ("choice", "kept"),
    [
        (Choice(1, 10, 0.2), [1, 2, 4, 5]),  # in the order of the proposals
        (Choice(5, 10, 0.2), [1, 4, 5, 2, 0]),  # too few: the best five; of equal ones the first
        (Choice(1, 2, 0.2), [1, 4]),  # too many
        (Choice(3, 3, 0.2), [1, 4, 5]),
        (Choice(9, 9, 0.9), [1, 4, 5, 2, 0, 3]),  # more than there are
    ],
)
def test_the_choice(choice, kept):
    assert select(CONFIDENCE, choice).tolist() == kept
