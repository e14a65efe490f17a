"""Grounding accuracy, by hand."""

import numpy as np
import pytest

from mmnas.errors import DataError
from mmnas.metrics.grounding import grounding_accuracy, proposal_quality

IOUS = [[0.5, 0.49, 0.9], [0.1, 0.2, 0.8], [0.3, 0.0, 0.0]]
VALID = [[True, True, True], [True, True, False], [True, True, True]]


def test_quality_of_the_proposals_counts_valid_regions_only():
    best, matching = proposal_quality(IOUS, VALID)
    np.testing.assert_allclose(best, [0.9, 0.2, 0.3])
    np.testing.assert_allclose(matching, [2 / 3, 0, 0])


def test_accuracy_oracle_and_random_region():
    best, matching = proposal_quality(IOUS, VALID)
    figures = grounding_accuracy([0.5, 0.6, 0.4999], best, matching)
    assert figures == pytest.approx({"accuracy": 200 / 3, "oracle": 100 / 3, "random_region": 200 / 9})


def test_half_is_correct_and_less_is_not():
    below = float(np.nextafter(np.float32(0.5), np.float32(0)))
    assert grounding_accuracy([0.5, below], [0.5, below], [1, 0])["accuracy"] == 50
    assert grounding_accuracy([0.5, below], [0.5, below], [1, 0])["oracle"] == 50


def test_an_image_without_a_valid_region_matches_nothing():
    best, matching = proposal_quality([[0.9]], [[False]])
    assert (best.tolist(), matching.tolist()) == ([0], [0])


@pytest.mark.parametrize("columns", [([], [], []), ([0.5], [0.5, 0.6], [0, 0]), ([0.5], [0.5], [])])
def test_columns_of_other_lengths_are_refused(columns):
    with pytest.raises(DataError, match="each needs one"):
        grounding_accuracy(*columns)
