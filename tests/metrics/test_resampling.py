"""Intervals that hold the true mean as often as they say, and a test that tells chance from a difference."""

import numpy as np
import pytest

from mmnas.metrics.resampling import bootstrap, interval, p_value

IMAGES = np.repeat(np.arange(120), 4)


def simulated(seed, shift=0.0):
    """Scores whose true mean is `shift`, alike within an image."""
    rng = np.random.default_rng(seed)
    return shift + np.repeat(rng.normal(size=120), 4) + rng.normal(size=480)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    limits = [interval(bootstrap([simulated(seed)], IMAGES, 500)[:, 0]) for seed in range(200)]
    assert 0.9 <= np.mean([low <= 0 <= high for low, high in limits]) <= 0.99


def test_samples_of_one_image_are_drawn_together():
    """Intervals that took them for independent ones would be about half as wide here."""
    values = simulated(0)
    together, apart = (np.std(bootstrap([values], images)) for images in (IMAGES, range(480)))
    assert together / apart > 1.4


def test_the_mean_of_a_column_with_gaps_counts_its_samples_alone():
    column = np.array([100.0, np.nan, 0.0, np.nan])
    means = bootstrap([column, np.full(4, 7.0)], [1, 1, 2, 3])
    assert means.shape == (2000, 2)
    known = means[~np.isnan(means[:, 0]), 0]
    assert set(known.round(2)) <= {0.0, 33.33, 50.0, 66.67, 100.0} and known.mean() == pytest.approx(50, abs=3)
    assert (means[:, 1] == 7).all()


def test_columns_share_their_draws_so_that_differences_are_paired():
    one = simulated(1)
    means = bootstrap([one, one + 1], IMAGES)
    assert np.allclose(means[:, 1] - means[:, 0], 1)


@pytest.mark.parametrize(
    ("differences", "differs"), [(np.zeros(480), False), (simulated(2), False), (simulated(3, 1.0), True)]
)
def test_chance_and_difference(differences, differs):
    assert (p_value(differences, IMAGES, 2000) < 0.05) is differs


def test_chance_alone_is_called_a_difference_as_rarely_as_it_should():
    found = [p_value(simulated(seed), IMAGES, 300) < 0.05 for seed in range(200)]
    assert np.mean(found) <= 0.09


def test_the_smallest_p_value_by_hand():
    """Two images: of four draws of signs, two are as extreme."""
    assert p_value(np.array([1.0, 1.0]), [1, 2]) == pytest.approx(0.5, abs=0.02)
