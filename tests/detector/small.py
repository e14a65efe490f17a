"""A table of few and small weights in place of the detector's, for what is tried many times."""

import contextlib
from unittest import mock

import numpy as np

from tests.detector.stand_in_weights import names

INNER = 2  # numbers to a row


def small_weights():
    """Weights of the heads and of one convolution, with all rows and few numbers in each; by name, float32."""
    rng = np.random.default_rng(7)
    return {name: rng.random(_shape(shape), np.float32) for name, shape in names().items() if _is_kept(name)}


def _is_kept(name):
    kept = ("rpn_head", "box_predictor", "stem.conv1")
    return any(part in name for part in kept) and "bbox_pred" not in name and "num_batches" not in name


def _shape(shape):
    return (shape[0], *(min(side, INNER) for side in shape[1:]))


@contextlib.contextmanager
def small_detector():
    """Let `read_weights` expect `small_weights`."""
    shapes = {name: values.shape for name, values in small_weights().items()}
    with mock.patch("mmnas.detector.weights.weight_shapes", lambda: shapes):
        yield
