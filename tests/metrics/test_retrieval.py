"""Retrieval figures: the published ones, ties, folds, worked out by hand."""

import json

import numpy as np
import pytest

from mmnas.errors import DataError
from mmnas.metrics.retrieval import folds, mean_figures, retrieval_figures, retrieval_ranks, rsum
from tests.stand_in import ROOT

FIXTURE = json.loads((ROOT / "tests/parity/retrieval_metric.json").read_text())


def test_figures_are_the_published_ones():
    figures = retrieval_figures(np.array(FIXTURE["scores"]))
    for direction in ("image_to_text", "text_to_image"):
        assert figures[direction] == pytest.approx(FIXTURE[direction], abs=1e-6)


def by_hand(scores, owners):
    """Ranks by sorting each row and column; what ties with the right answer stands before it."""
    images, captions = scores.shape
    image_ranks, caption_ranks = [], []
    for image in range(images):
        order = sorted(range(captions), key=lambda c: (-scores[image, c], owners[c] == image))
        image_ranks.append(1 + min(place for place, c in enumerate(order) if owners[c] == image))
    for caption in range(captions):
        order = sorted(range(images), key=lambda i: (-scores[i, caption], i == owners[caption]))
        caption_ranks.append(1 + order.index(owners[caption]))
    return image_ranks, caption_ranks


@pytest.mark.parametrize("levels", [3, 10, 10_000])
def test_ranks_agree_with_sorting(levels):
    scores = np.random.default_rng(levels).integers(levels, size=(9, 45)).astype(np.float32)
    ranks = retrieval_ranks(scores)
    expected = by_hand(scores, np.arange(45) // 5)
    assert ranks[0].tolist() == expected[0] and ranks[1].tolist() == expected[1]


@pytest.mark.parametrize("counts", [[1, 1, 1], [3, 1, 7, 1, 2]])
def test_images_may_have_different_numbers_of_captions(counts):
    owners = np.repeat(np.arange(len(counts)), counts)
    scores = np.random.default_rng(0).integers(4, size=(len(counts), len(owners))).astype(np.float32)
    ranks, expected = retrieval_ranks(scores, owners), by_hand(scores, owners)
    assert ranks[0].tolist() == expected[0] and ranks[1].tolist() == expected[1]
    with pytest.raises(DataError, match="an image has no captions"):
        retrieval_ranks(np.zeros((len(counts) + 1, len(owners))), owners)


def test_a_model_that_says_the_same_of_all_is_last():
    image_ranks, caption_ranks = retrieval_ranks(np.zeros((4, 20)))
    assert image_ranks.tolist() == [16] * 4 and caption_ranks.tolist() == [4] * 20
    assert rsum(retrieval_figures(np.zeros((40, 200)))) == 0


def test_a_perfect_model_is_first():
    figures = retrieval_figures(np.repeat(np.eye(3), 5, axis=1))
    assert rsum(figures) == 600
    assert figures["image_to_text"]["median_rank"] == figures["text_to_image"]["mean_rank"] == 1


def test_folds_are_consecutive_and_averaged():
    assert folds(5000, 5) == [slice(start, start + 1000) for start in range(0, 5000, 1000)]
    assert folds(11, 2) == [slice(0, 5), slice(5, 11)]
    with pytest.raises(DataError, match="4 images do not make 5 folds"):
        folds(4, 5)
    parts = [{"image_to_text": {"r1": 10.0}, "text_to_image": {"r1": value}} for value in (0.0, 50.0)]
    assert mean_figures(parts) == {"image_to_text": {"r1": 10.0}, "text_to_image": {"r1": 25.0}}


@pytest.mark.parametrize("scores", [np.zeros((2, 5)), np.zeros((0, 0)), np.full((2, 10), np.nan)])
def test_what_cannot_be_ranked(scores):
    with pytest.raises(DataError):
        retrieval_ranks(scores)
